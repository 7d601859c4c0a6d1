"""A hierarchy from a mapping of each node to its parent."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from .cells import checked_missing, name_of
from .named_links import ROOT, NamedLinks
from .suspicions import quoted, refuse_look_alikes, refuse_stringified_nothing


def read_parents(
    items: Iterable[tuple[Any, Any]], missing: Collection[str] | None = None
) -> NamedLinks:
    """Nodes in the order of their keys; see `Hierarchy.from_parents`."""
    words = checked_missing(missing) or frozenset()
    ids: dict[str, int] = {}
    parent_names: list[str] = []
    for key, value in items:
        try:
            name, parent_name = name_of(key), name_of(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"parents[{key!r}]: {error}") from None
        if not name or name in words:
            raise ValueError(f"{key!r} is a key of parents, and is not the name of a node")
        if name in ids:
            raise ValueError(f"{name!r} is given twice; give every node once")
        ids[name] = len(ids)
        parent_names.append("" if parent_name in words or parent_name == name else parent_name)
    if not ids:
        raise ValueError("parents is empty; a hierarchy needs at least one node and one class")
    if "-1" not in ids:  # as in an array of parents
        parent_names = ["" if name == "-1" else name for name in parent_names]
    unknown = list(dict.fromkeys(name for name in parent_names if name and name not in ids))
    if unknown:
        number = sum(name in set(unknown) for name in parent_names)
        raise ValueError(
            f"{len(unknown)} parents, of {number} nodes, are no keys: {quoted(unknown)}. Add each "
            f"as a key, with None as its parent if it is a root, or give missing={unknown[:3]!r} "
            f"if that says that there is no parent"
        )
    names = list(ids)
    refuse_stringified_nothing(names, missing)
    refuse_look_alikes(names)
    return NamedLinks(names, [ids[name] if name else ROOT for name in parent_names], [])
