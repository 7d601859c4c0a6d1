"""A hierarchy cut down to a data set's labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .links import Links

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]


def cut(
    links: Links, names: Sequence[str] | None, nodes: Sequence[int], *, single_parent: bool
) -> tuple[Int64, Links]:
    """The nodes at or above some, and the links between them.

    The i-th of `nodes` becomes node i. The nodes above follow by first appearance: for each of
    `nodes` in turn the new ones among them, by depth, then by name. So the order of the nodes in
    the original hierarchy does not matter.

    Args:
        links: of the hierarchy.
        names: of its nodes, if they have names; otherwise ids take their place.
        nodes: distinct ids, in label order.
        single_parent: keep one parent per node: the deepest; of equally deep ones, the first by
        name.

    Returns:
        The old id of each node that is kept, int64 (M), and the links between them.
    """
    depths = links.depths.tolist()
    ptr, parent = links.parent_ptr.tolist(), links.parent.tolist()

    def place(node: int) -> tuple[int, str | int]:
        return depths[node], node if names is None else names[node]

    def parents_of(node: int) -> list[int]:
        above: list[int] = parent[ptr[node] : ptr[node + 1]]
        if single_parent and len(above) > 1:
            return [min(above, key=lambda up: (-depths[up], place(up)[1]))]
        return above

    new_id = {node: label for label, node in enumerate(nodes)}
    walked: set[int] = set()
    edges: list[tuple[int, int]] = []  # of old ids
    for node in nodes:
        todo, found = [node], []
        while todo:
            below = todo.pop()
            if below in walked:
                continue
            walked.add(below)
            if below not in new_id:
                found.append(below)
            above = parents_of(below)
            edges += [(up, below) for up in above]
            todo += above
        for above_node in sorted(found, key=place):
            new_id[above_node] = len(new_id)
    pairs = np.array([(new_id[up], new_id[below]) for up, below in edges], np.int64)
    return np.array(list(new_id)), Links.of_edges(pairs.reshape(-1, 2), len(new_id))
