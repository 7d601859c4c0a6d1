"""Names for the nodes of a hierarchy whose own names are ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .readers.cells import name_of
from .readers.paths import checked_sep
from .readers.suspicions import quoted, refuse_look_alikes

if TYPE_CHECKING:
    from .links import Links


def path_names(links: Links, ids: Sequence[str] | None, names: Any, sep: str) -> tuple[str, ...]:
    """Each node's name: in a tree its full path of names, in a DAG its own name.

    Args:
        links: of the hierarchy, without cycles.
        ids: its nodes' present names, if they have any.
        names: a mapping from those to names, or N names in the order of the node ids.
        sep: what separates the parts of a path.

    Raises:
        TypeError: names that are neither a list nor a mapping of text and whole numbers.
        ValueError: a node without a name, a wrong number of names, a name that holds `sep`, two
            nodes of the same name below one parent (in a DAG, anywhere).
    """
    checked_sep(sep)
    own = _names_in_order(ids, names, links.num_nodes)
    if links.is_tree:
        own = _joined(links, own, sep)
    first: dict[str, int] = {}
    for node, name in enumerate(own):
        other = first.setdefault(name, node)
        if other != node:
            pair = f"{_shown(other, ids)} and {_shown(node, ids)}"
            where = "below one parent" if links.is_tree else "in a DAG, where a name is one node"
            raise ValueError(f"{pair} are both named {name!r}, {where}; give each one of its own")
    refuse_look_alikes(own)
    return tuple(own)


def _names_in_order(ids: Sequence[str] | None, names: Any, num_nodes: int) -> list[str]:
    if isinstance(names, (str, bytes)):
        raise TypeError(f"names must be a list or a mapping, got the string {names!r}")
    if isinstance(names, Mapping):
        keys = list(map(str, range(num_nodes))) if ids is None else ids
        known = {name_of(key): value for key, value in names.items()}
        values = [known.get(key) for key in keys]
    else:
        values = list(names)
        if len(values) != num_nodes:
            raise ValueError(f"{len(values)} names for {num_nodes} nodes; give every node one")
    own = [name_of(value).strip() for value in values]
    without = [node for node, name in enumerate(own) if not name]
    if without:
        raise ValueError(
            f"{len(without)} of {num_nodes} nodes have no name: "
            f"{quoted([_id(node, ids) for node in without])}"
        )
    return own


def _joined(links: Links, own: list[str], sep: str) -> list[str]:
    parents = links.parents.tolist()
    paths = list(own)
    for node in np.argsort(links.depths, kind="stable").tolist():
        if sep in own[node]:
            raise ValueError(
                f"the name {own[node]!r} holds sep {sep!r}; give another one, sep=' > ' say"
            )
        if parents[node] >= 0:
            paths[node] = f"{paths[parents[node]]}{sep}{own[node]}"
    return paths


def _id(node: int, ids: Sequence[str] | None) -> str:
    return str(node) if ids is None else ids[node]


def _shown(node: int, ids: Sequence[str] | None) -> str:
    return f"node {node}" if ids is None else repr(ids[node])
