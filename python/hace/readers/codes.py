"""A hierarchy from codes that begin with their parent's code: ICD, ATC, NAICS, MeSH, ISCO."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NoReturn

from .cells import name_of, rows_of
from .named_links import ROOT, NamedLinks
from .suspicions import quoted, refuse_look_alikes, refuse_stringified_nothing

_RANGE = re.compile(r"([^-–]+)[-–]([^-–]+)")
_NO_PREFIX = 2


def read_codes(codes: Iterable[Any], *, sep: str | None, ranges: bool) -> NamedLinks:
    """See `Hierarchy.from_codes`."""
    if sep is not None and (not isinstance(sep, str) or not sep):
        raise ValueError(f"sep must be the text between the parts of a code, got {sep!r}")
    if isinstance(codes, (str, bytes)):
        raise TypeError(f"codes must be a list of strings, got the string {codes!r}")
    ids: dict[str, int] = {}
    for place, code in enumerate(rows_of(codes)):
        try:
            name = name_of(code)
        except (TypeError, ValueError) as error:
            raise type(error)(f"code {place}: {error}") from None
        if not name:
            raise ValueError(f"code {place} is {code!r}, which is not a code")
        if name in ids:
            raise ValueError(f"code {ids[name]} and code {place} are both {name!r}")
        ids[name] = place
    if not ids:
        raise ValueError("codes is empty; a hierarchy needs at least one node")
    names = list(ids)
    refuse_stringified_nothing(names, None)
    refuse_look_alikes(names)

    spans = _spans(names)
    parents = [_longest_prefix(name, ids, sep) for name in names]
    if ranges:
        _under_ranges(names, parents, spans, ids)
    else:
        _refuse_ranges(names, parents, spans)
    if len(names) > _NO_PREFIX and set(parents) == {ROOT}:
        raise ValueError(
            f"none of the {len(names)} codes begins with another one (the first are "
            f"{quoted(names, 3)}), so they say nothing about a hierarchy"
        )
    if sep is None:
        _refuse_unequal_parts(names, parents)
    return NamedLinks(names, parents, [])


def _longest_prefix(code: str, ids: dict[str, int], sep: str | None) -> int:
    if sep is not None:
        while sep in code:
            code = code.rpartition(sep)[0]
            if code in ids:
                return ids[code]
        return ROOT
    for end in range(len(code) - 1, 0, -1):
        if code[:end] in ids:
            return ids[code[:end]]
    return ROOT


def _spans(names: list[str]) -> dict[int, tuple[str, str]]:
    """First and last code of each node that is written as a range, "A00-B99"."""
    spans = {}
    for node, name in enumerate(names):
        found = _RANGE.fullmatch(name)
        if found and len(found[1]) == len(found[2]) and found[1] <= found[2]:
            spans[node] = (found[1], found[2])
    return spans


def _under_ranges(
    names: list[str], parents: list[int], spans: dict[int, tuple[str, str]], ids: dict[str, int]
) -> None:
    """Puts each code without a longer prefix below the narrowest range that holds it."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for node, (first, _) in spans.items():
        by_length[len(first)].append(node)

    def narrowest(first: str, last: str, within: int) -> int:
        best = ROOT
        for length in sorted(by_length, reverse=True):
            for node in by_length[length]:
                low, high = spans[node]
                holds = low <= first[:length] and last[:length] <= high
                if not holds or len(first) < length or node == within:
                    continue
                if best == ROOT or (spans[best][0] <= low and high <= spans[best][1]):
                    best = node
            if best != ROOT:
                return best
        return ROOT

    for node, name in enumerate(names):
        if node in spans:
            first, last = spans[node]
            parents[node] = narrowest(first, last, node)
            if parents[node] == ROOT:
                parents[node] = _longest_shared_prefix(first, last, ids)
        elif parents[node] == ROOT:
            parents[node] = narrowest(name, name, node)


def _longest_shared_prefix(first: str, last: str, ids: dict[str, int]) -> int:
    for end in range(len(first), 0, -1):
        if first[:end] == last[:end] and first[:end] in ids:
            return ids[first[:end]]
    return ROOT


def _refuse_ranges(names: list[str], parents: list[int], spans: dict[int, tuple[str, str]]) -> None:
    roots = [node for node, parent in enumerate(parents) if parent == ROOT and node not in spans]
    for first, last in spans.values():
        below = [
            names[node]
            for node in roots
            if len(names[node]) >= len(first) and first <= names[node][: len(first)] <= last
        ]
        if below:
            raise ValueError(
                f"{first + '-' + last!r} is a range of codes, and {quoted(below, 3)} would not be "
                f"below it; give ranges=True if it is to hold them"
            )


def _refuse_unequal_parts(names: list[str], parents: list[int]) -> None:
    """Raises ValueError where '1.1' would be the parent of '1.10'.

    Codes with several points are made of parts, and a part is not below another part that it begins
    with.
    """
    for mark in ".-/_ ":
        if not any(name.count(mark) > 1 for name in names):
            continue
        for node, parent in enumerate(parents):
            if parent == ROOT or mark not in names[parent]:
                continue
            if names[node][len(names[parent])] != mark and not names[parent].endswith(mark):
                _refuse_prefix(names[node], names[parent], mark)


def _refuse_prefix(code: str, parent: str, mark: str) -> NoReturn:
    raise ValueError(
        f"{parent!r} would be the parent of {code!r}, whose part is another one; give sep={mark!r} "
        f"for codes that are made of parts"
    )
