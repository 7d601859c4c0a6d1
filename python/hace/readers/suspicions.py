"""Errors and warnings for input that is possible but rarely meant, each with what to write."""

from __future__ import annotations

import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

from .cells import NOTHING_WORDS, STRINGIFIED_NOTHING

_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060\u00ad"))
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0+")


def quoted(names: Iterable[str], at_most: int = 5) -> str:
    """The first few of some names, quoted for an error message."""
    names = list(names)
    shown = ", ".join(repr(name) for name in islice(names, at_most))
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"


def refuse_words_for_nothing(
    names: Iterable[str], missing: Collection[str] | None, is_meant: Callable[[str], bool]
) -> None:
    """Raises ValueError if a name reads like "no value" and `missing` does not say what it is.

    Args:
        names: of nodes; those with a node below them for words that may be names (NA is Namibia).
        missing: the words that mean "no value", or None if the user has not given any.
        is_meant: whether the data itself shows that the name is one.
    """
    if missing is not None:
        return
    found = [name for name in names if name in NOTHING_WORDS and not is_meant(name)]
    if found:
        raise ValueError(
            f"{quoted(found)} would be a node with others below it, and reads like 'no value'. "
            f"Give missing=[{found[0]!r}] if that is what it says, or missing=[] if it is a name"
        )


def refuse_stringified_nothing(names: Iterable[str], missing: Collection[str] | None) -> None:
    """Raises ValueError if a name is what `str` makes of a missing number."""
    if missing is not None:
        return
    found = sorted(STRINGIFIED_NOTHING.intersection(names))
    if found:
        raise ValueError(
            f"{quoted(found)} would be the name of a node, and is how programs write that a value "
            f"is missing. Give missing={found!r} if that is what it says, or missing=[] if it is "
            f"a name"
        )


def refuse_look_alikes(names: Sequence[str]) -> None:
    """Raises ValueError if two names look the same, so that a person would take them for one node.

    Names look the same if they differ in blanks around or doubled within them, in invisible
    characters, in the composition of accents, or as `1.0` and `1` do. Names that differ in case
    alone give a warning: some vocabularies mean it.
    """
    plain = names if all(map(_is_plain, names)) else [_plain(name) for name in names]
    if plain is not names:
        _refuse_same(names, plain)
    floats = [name for name in plain if name.endswith("0") and _WHOLE_FLOAT.fullmatch(name)]
    if floats:
        known = set(plain)
        for name in floats:
            whole = name.partition(".")[0]
            if whole in known:
                raise ValueError(
                    f"{name!r} and {whole!r} would be two nodes, and look like one: a column with "
                    f"empty cells that was written as floats. Write the ids as whole numbers "
                    f"(pandas: .astype('Int64'), or read_csv(…, dtype=str))"
                )
    if len({hash(name.casefold()) for name in names}) < len(names):  # hashes: a third of the memory
        _warn_case(names)


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and "  " not in name and name.strip() == name


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).translate(_INVISIBLE).split())


def _refuse_same(names: Sequence[str], plain: Sequence[str]) -> None:
    if len(set(plain)) == len(plain):
        return
    seen: dict[str, str] = {}
    for name, same in zip(names, plain, strict=True):
        other = seen.setdefault(same, name)
        if other is not name:
            raise ValueError(
                f"{other!a} and {name!a} would be two nodes, and look like one: they "
                f"differ in blanks, in characters that cannot be seen, or in how an accent is "
                f"composed. Write the name in one way"
            )


def _warn_case(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            pairs.append((other, name))
    if not pairs:
        return
    one, other = pairs[0]
    more = f", as {len(pairs) - 1} more do" if len(pairs) > 1 else ""
    warn(f"{one!r} and {other!r} differ in case alone{more}; they are two nodes")


def warn_no_branch(num_edges: int, has_branch: bool, turn_round: str) -> None:
    """Warns if no node has two children, as in a tree's file whose columns are swapped."""
    if num_edges > 1 and not has_branch:
        warn(
            f"no node of this hierarchy has two children, so it groups nothing; if parent and "
            f"child are the other way round, {turn_round}"
        )


def warn(message: str) -> None:
    """A UserWarning at the line that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("hace."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
