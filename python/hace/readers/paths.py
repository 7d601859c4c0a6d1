"""A hierarchy from the path of each class, root first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NoReturn

from .cells import NOTHING_WORDS, checked_missing, name_of, rows_of
from .labels import in_label_order
from .named_links import ROOT, NamedLinks
from .suspicions import (
    refuse_look_alikes,
    refuse_stringified_nothing,
    refuse_words_for_nothing,
    warn,
)

_UNRESOLVED = -2  # a class whose path has not been walked yet

_SEPARATORS = (" > ", " / ", "; ", " | ", " -> ", "->", "::", ">", "/", "|", "\\", ";", "\t", ".")
_NO_PATH = 4  # if this many names have no separator, it is taken to be the wrong one

Path = str | Iterable[Any]


def read_paths(
    paths: Iterable[Path], sep: str, missing: Collection[str] | None = None
) -> NamedLinks:
    """See `Hierarchy.from_paths`."""
    checked_sep(sep)
    if isinstance(paths, (str, bytes)):
        raise TypeError(f"paths must be a list of strings, one per class, got the string {paths!r}")
    words = checked_missing(missing)
    ids: dict[str, int] = {}
    rows = in_label_order(paths) if isinstance(paths, Mapping) else rows_of(paths)
    for label, row in enumerate(rows):
        path = _joined(label, row, sep, words)
        first = ids.setdefault(path, label)
        if first != label:
            raise ValueError(
                f"path {label} and path {first} are both {path!r}; list every class once "
                f"(dict.fromkeys(paths) keeps the first of each)"
            )
    if not ids:
        raise ValueError("paths is empty; a hierarchy needs at least one")
    links = _walk(ids, sep)
    _refuse_suspicious(links, sep, missing)
    return links


def checked_sep(sep: str) -> None:
    """Raises TypeError or ValueError unless `sep` can separate parts."""
    if not isinstance(sep, str):
        raise TypeError(f"sep must be a string, got {sep!r}")
    if not sep:
        raise ValueError("sep is empty; give the text between the parts of a path, e.g. '/'")


def _joined(label: int, row: Path, sep: str, missing: frozenset[str] | None) -> str:
    if isinstance(row, str):
        if not row:
            _refuse_empty_part(label, row, sep)
        if not missing:
            return str(row)
        parts = [part for part in row.split(sep) if part not in missing]
        if not parts:
            raise ValueError(f"path {label}, {row!r}, has no part that is not in missing")
        return sep.join(parts)
    if isinstance(row, (bytes, Mapping)) or not isinstance(row, Iterable):
        raise TypeError(f"path {label} must be a string or a sequence of parts, got {row!r}")
    parts = []
    for cell in rows_of(row):
        try:
            part = name_of(cell)
        except (TypeError, ValueError) as error:
            raise type(error)(f"path {label}: {error}") from None
        if not part or (missing and part in missing):
            continue
        if sep in part:
            _refuse_sep_in_part(label, part, sep)
        if part[0].isspace() or part[-1].isspace():
            raise ValueError(
                f"path {label} has the part {part!r}, which begins or ends with a blank; cut "
                f"it off (str.strip)"
            )
        parts.append(part)
    if not parts:
        raise ValueError(f"path {label}, {row!r}, has no part; a class needs a name")
    return sep.join(parts)


def _walk(ids: dict[str, int], sep: str) -> NamedLinks:
    class_paths = list(ids)
    parents = [_UNRESOLVED] * len(class_paths)
    for label, path in enumerate(class_paths):
        # Up to the first node whose parent is known, so that every node is visited once.
        node, parent, walk = path, ROOT, []
        while node:
            known = ids.get(node)
            if known is not None and parents[known] != _UNRESOLVED:
                parent = known
                break
            walk.append(node)
            above, found, last_part = node.rpartition(sep)
            if not last_part or (found and not above):
                _refuse_empty_part(label, path, sep)
            if last_part[0].isspace() or last_part[-1].isspace():
                _refuse_blank(label, path, last_part, sep)
            node = above
        for node in reversed(walk):
            new = ids.setdefault(node, len(ids))
            if new == len(parents):
                parents.append(parent)
            else:
                parents[new] = parent
            parent = new
    return NamedLinks(list(ids), parents, [], range(len(class_paths)))


def _refuse_suspicious(links: NamedLinks, sep: str, missing: Collection[str] | None) -> None:
    num_classes = len(links.classes or ())
    inner = set(links.parents)
    if num_classes >= _NO_PATH and inner == {ROOT}:
        _refuse_flat(links.names, sep)
    _warn_few(links.names[:num_classes], sep)
    last_parts = [name.rpartition(sep)[2] for name in links.names]
    refuse_stringified_nothing(last_parts, missing)
    places: dict[str, int] = {}
    for node, part in enumerate(last_parts):
        if part in NOTHING_WORDS:
            places[part] = places.get(part, 0) + (2 if node in inner else 1)
    refuse_words_for_nothing(
        [part for part, number in places.items() if number > 1], missing, lambda part: False
    )
    refuse_look_alikes(links.names)


def _refuse_flat(names: list[str], sep: str) -> NoReturn:
    others = [
        other for other in _SEPARATORS if sum(other in name for name in names) * 2 > len(names)
    ]
    advice = f"give sep={others[0]!r} if that separates the parts; " if others else ""
    raise ValueError(
        f"none of the {len(names)} paths has more than one part (the first is {names[0]!r}, sep is "
        f"{sep!r}), so this hierarchy groups nothing and a loss on it is plain cross-entropy. "
        f"{advice[:1].upper()}{advice[1:]}{'if' if advice else 'If'} it is to be flat, say so by "
        f"from_parents([-1] * {len(names)}, names)"
    )


def _warn_few(paths: list[str], sep: str) -> None:
    with_sep = sum(sep in path for path in paths)
    if len(paths) < _NO_PATH or with_sep * 2 >= len(paths):
        return
    for other in _SEPARATORS[:-1]:
        if other != sep and sum(other in path for path in paths) * 10 >= len(paths) * 9:
            warn(
                f"sep {sep!r} is in {with_sep} of {len(paths)} paths, {other!r} in most of them; "
                f"give sep={other!r} if that separates the parts"
            )
            return


def _refuse_empty_part(label: int, path: str, sep: str) -> NoReturn:
    raise ValueError(
        f"path {label}, {path!r}, has an empty part; give every part a name, with one {sep!r} "
        f"between parts"
    )


def _refuse_blank(label: int, path: str, part: str, sep: str) -> NoReturn:
    other = next((wide for wide in (f" {sep} ", f"{sep} ", f" {sep}") if wide in path), None)
    advice = f"give sep={other!r}" if other else "cut it off"
    raise ValueError(
        f"path {label}, {path!r}, has the part {part!r}, which begins or ends with a blank; "
        f"{advice}"
    )


def _refuse_sep_in_part(label: int, part: str, sep: str) -> NoReturn:
    other = next(
        other
        for other in (" > ", "/", "|", ">", "; ", "::", " // ", "\t", "\x1f")
        if other not in part
    )
    raise ValueError(
        f"path {label} has the part {part!r}, which holds sep {sep!r}; its names would not tell "
        f"where it ends. Give another one, for instance sep={other!r}"
    )
