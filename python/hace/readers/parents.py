"""A hierarchy from a mapping of each node to its parent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .cells import checked_missing, name_of
from .named_links import ROOT, NamedLinks
from .suspicions import quoted, refuse_look_alikes, refuse_stringified_nothing


def mapping_items(parents: Any) -> Iterable[tuple[Any, Any]] | None:
    """The items of a mapping or of a pandas Series with an index of its own; None of an array."""
    if isinstance(parents, Mapping):
        return parents.items()
    index: Any = getattr(parents, "index", None)
    values = getattr(parents, "tolist", None)
    if not callable(values) or not hasattr(index, "tolist"):
        return None
    keys = index.tolist()
    return None if keys == list(range(len(keys))) else zip(keys, values(), strict=True)


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
    if "-1" not in ids:  # where -1 means a root, as in an array of parents
        parent_names = ["" if name == "-1" else name for name in parent_names]
    unknown = list(dict.fromkeys(name for name in parent_names if name and name not in ids))
    if unknown:
        number = sum(name in set(unknown) for name in parent_names)
        raise ValueError(
            f"{number} of {len(ids)} nodes have parents that are not keys: {quoted(unknown)}. Add "
            f"each as a key, with None as its parent if it is a root, or give "
            f"missing={unknown[:3]!r} if that says that there is no parent"
        )
    names = list(ids)
    refuse_stringified_nothing(names, missing)
    refuse_look_alikes(names)
    return NamedLinks(names, [ids[name] if name else ROOT for name in parent_names], [])
