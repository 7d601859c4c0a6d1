"""A hierarchy from nested records or mappings: JSON, YAML, d3."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from .cells import name_of
from .named_links import NamedLinks
from .paths import checked_sep, read_paths

Parts = tuple[str, ...]
Entry = tuple[Any, Any]  # the name of a node, and what is below it


def read_nested(
    tree: Any,
    *,
    name: str,
    children: str,
    sep: str,
    missing: Collection[str] | None = None,
) -> NamedLinks:
    """See `Hierarchy.from_nested`."""
    checked_sep(sep)
    if not isinstance(tree, (Mapping, Sequence)) or isinstance(tree, (str, bytes)):
        raise TypeError(
            f"tree must be a dict or a list, got {type(tree).__name__}; read a file by json.load"
        )
    _check_keys(tree, name, children)
    leaves: list[Parts] = []
    seen: set[Parts] = set()
    # Depth-first with an explicit stack, since a tree may be deeper than Python's recursion limit.
    stack: list[tuple[Parts, Any]] = [((), tree)]
    while stack:
        path, below = stack.pop()
        entries = _entries(path, below, name, children)
        if not entries and path:
            leaves.append(path)
        for value, under in reversed(entries):
            place = (*path, _name(path, value))
            if place in seen:
                raise ValueError(f"{_shown(place)} is given twice; give every node once")
            seen.add(place)
            stack.append((place, under))
    return read_paths(leaves, sep, missing)


def _entries(path: Parts, below: Any, name: str, children: str) -> list[Entry]:
    """The nodes that a record, mapping or list holds."""
    if below is None:
        return []
    if isinstance(below, Mapping):
        if _is_record(below, name):
            return [(below[name], below.get(children))]
        for key, value in below.items():
            if value is not None and not _is_list_or_mapping(value):
                _refuse_scalar(path, key, value, name)
        return list(below.items())
    if not _is_list_or_mapping(below):
        _refuse_scalar(path[:-1], path[-1], below, name)
    if isinstance(below, (set, frozenset)):
        raise TypeError(f"below {_shown(path)} is a set, which has no order; give a list")
    entries: list[Entry] = []
    for element in below:
        if isinstance(element, Mapping):
            entries += _entries(path, element, name, children)
        elif _is_list_or_mapping(element):
            raise TypeError(f"below {_shown(path)} is a list within a list; one list is enough")
        else:
            entries.append((element, None))
    return entries


def _is_record(value: Mapping[Any, Any], name: str) -> bool:
    return name in value and not (value[name] is None or _is_list_or_mapping(value[name]))


def _is_list_or_mapping(value: Any) -> bool:
    return isinstance(value, (Mapping, Sequence, set, frozenset)) and not isinstance(
        value, (str, bytes)
    )


def _name(path: Parts, value: Any) -> str:
    try:
        found = name_of(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"below {_shown(path)}: {error}") from None
    if not found:
        raise ValueError(f"a node below {_shown(path)} has the name {value!r}; give it one")
    return found


def _check_keys(tree: Any, name: str, children: str) -> None:
    """Raises ValueError if the records of the first level keep their children under another key."""
    records = [tree] if isinstance(tree, Mapping) else list(tree)
    records = [r for r in records if isinstance(r, Mapping) and _is_record(r, name)]
    if not records or any(children in record for record in records):
        return
    lists = [key for key, value in records[0].items() if _is_list_or_mapping(value)]
    others = f" (it has lists under {', '.join(map(repr, lists))})" if lists else ""
    raise ValueError(
        f"no record of the first level has the key {children!r}{others}; give children= the key "
        f"of a record's list of children. Records without such lists go into from_paths or "
        f"from_parents"
    )


def _refuse_scalar(path: Parts, key: Any, value: Any, name: str) -> NoReturn:
    raise ValueError(
        f"{_shown((*path, str(key)))} holds {value!r}, which is neither children nor None. Where "
        f"it is a child, give a list, [{value!r}]; where these are records, give name= the key of "
        f"a record's name (now {name!r})"
    )


def _shown(path: Parts) -> str:
    return repr(" > ".join(path)) if path else "the top"
