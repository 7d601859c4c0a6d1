"""Common ancestors of points, for whole tensors of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hace_kernels import memory_bytes

from ..tables import Tables
from .points import Points

__all__ = ["DagAncestry", "Meeting", "TreeAncestry", "ancestry_of", "tree_ancestry_of"]


class Meeting(NamedTuple):
    """How two points are related, for each of R pairs; int64 (R) each.

    Attributes:
        height: of the lowest common ancestor, which is the virtual root across trees. On a DAG
            it is the common ancestor of least height.
        depth: of the lowest common ancestor, −1 for the virtual root. On a DAG, the greatest depth
            of any of the common ancestors of least height.
        common: how many points are at or above both. A root that is above all points is not
            counted, and neither is the virtual root.
        distance: edges on the shortest way from one to the other by a common ancestor.
    """

    height: Tensor
    depth: Tensor
    common: Tensor
    distance: Tensor


class TreeAncestry:
    """Ancestors in a tree or forest, by binary lifting: O(P log depth) memory.

    Args:
        points: of a tree or forest.
        device: where the tables are to lie.
    """

    def __init__(self, points: Points, device: torch.device) -> None:
        tables, virtual = points.on(device), points.num_points
        self.depth, self.height = tables.depth, tables.height
        self._counted = 0 if points.has_lone_root else 1
        parents = np.append(points.tree.parents, virtual)
        parents[parents < 0] = virtual
        # up[k][v] is 2^k edges above v. The virtual root is above itself.
        self.up = [torch.from_numpy(parents).to(device)]
        for _ in range(int(points.tree.depth + 1).bit_length() - 1):
            self.up.append(self.up[-1][self.up[-1]])

    @property
    def parent(self) -> Tensor:
        """int64 (P+1); the virtual root is the parent of the roots and its own."""
        return self.up[0]

    def size(self, point: Tensor) -> Tensor:
        """How many points are at or above each, without a root that is above all."""
        return (self.depth[point] + self._counted).clamp(min=0)

    def lca(self, a: Tensor, b: Tensor) -> Tensor:
        """The lowest common ancestors."""
        level = torch.minimum(self.depth[a], self.depth[b])
        a, b = self.at_depth(a, level), self.at_depth(b, level)
        for up in reversed(self.up):
            above_a, above_b = up[a], up[b]
            apart = above_a != above_b
            a, b = torch.where(apart, above_a, a), torch.where(apart, above_b, b)
        return torch.where(a == b, a, self.parent[a])

    def at_depth(self, point: Tensor, depth: Tensor) -> Tensor:
        """The ancestor at `depth`; a point that is not as deep stays as it is."""
        return self._climb(point, lambda above: self.depth[above] >= depth)

    def lowest(self, point: Tensor, holds: Callable[[Tensor], Tensor]) -> Tensor:
        """The lowest point at or above each that `holds`.

        Args:
            point: int64, any shape.
            holds: from points of that shape to bool; at the virtual root always, and above a
                point where it holds too.
        """
        below = self._climb(point, lambda above: ~holds(above))
        return torch.where(holds(point), point, self.parent[below])

    def _climb(self, point: Tensor, while_: Callable[[Tensor], Tensor]) -> Tensor:
        """The highest ancestor up to which `while_` holds; the point itself where it never does."""
        for up in reversed(self.up):
            above = up[point]
            point = torch.where(while_(above), above, point)
        return point

    def meet(self, a: Tensor, b: Tensor) -> Meeting:
        """How the points of each pair are related."""
        lca = self.lca(a, b)
        depth = self.depth[lca]
        return Meeting(
            self.height[lca],
            depth,
            (depth + self._counted).clamp(min=0),
            self.depth[a] + self.depth[b] - 2 * depth,
        )


class DagAncestry:
    """Ancestors in a DAG, as lists: memory for every pair of a point and one above it.

    Args:
        points: of a DAG.
        device: where the tables are to lie.
    """

    def __init__(self, points: Points, device: torch.device) -> None:
        tables = points.on(device)
        self.depth, self.height = tables.depth, tables.height
        # The virtual root is in every list, and a lone root too.
        self._not_counted = 2 if points.has_lone_root else 1
        ptr, above, edges = _ancestor_lists(points)
        self._ptr, self._above, self._edges = (
            torch.from_numpy(array).to(device) for array in (ptr, above, edges)
        )

    def size(self, point: Tensor) -> Tensor:
        """How many points are at or above each, without a root that is above all."""
        return (self._ptr[point + 1] - self._ptr[point] - self._not_counted).clamp(min=0)

    def pairs_above(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All pairs of a row and a point at or above the row's: rows, points, edges between.

        Ascending by row, then by point.
        """
        start = self._ptr[point]
        length = self._ptr[point + 1] - start
        row = torch.repeat_interleave(length)
        before = length.cumsum(0) - length
        entry = torch.arange(len(row), device=row.device) + (start - before)[row]
        return row, self._above[entry], self._edges[entry]

    def meet(self, a: Tensor, b: Tensor) -> Meeting:
        """How the points of each pair are related."""
        row, point, edges = self.pairs_above(a)
        row_b, point_b, edges_b = self.pairs_above(b)
        size = len(self.depth)
        key, key_b = row * size + point, row_b * size + point_b
        # Both are sorted, and each row's list ends with the virtual root, so no search runs past
        # the end.
        found = torch.searchsorted(key_b, key)
        shared = key_b[found] == key
        row, point, way = row[shared], point[shared], (edges + edges_b[found])[shared]

        def least(values: Tensor) -> Tensor:
            empty = torch.zeros(len(a), dtype=torch.int64, device=row.device)
            return empty.scatter_reduce(0, row, values, "amin", include_self=False)

        # Lowest first, and of the lowest the deepest, as one number.
        key = least(self.height[point] * (size + 1) - (self.depth[point] + 1))
        height = (key + size) // (size + 1)
        common = torch.zeros_like(key).index_add(0, row, torch.ones_like(row))
        return Meeting(
            height,
            height * (size + 1) - key - 1,
            (common - self._not_counted).clamp(min=0),
            least(way),
        )


def _ancestor_lists(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is at or above each point and the virtual root, ascending, with the distances."""
    tree, virtual = points.tree, points.num_points
    parents: list[list[int]] = [[] for _ in range(virtual)]
    for parent, child in tree.edges.tolist():
        parents[child].append(parent)
    lists: list[dict[int, int]] = [{} for _ in range(virtual)]
    lists.append({virtual: 0})
    entries, bound = 0, memory_bytes() // 200  # a dictionary takes about 200 bytes per entry
    for point in np.argsort(tree.depths, kind="stable").tolist():
        found = {point: 0}
        for parent in parents[point] or [virtual]:
            for above, edges in lists[parent].items():
                found[above] = min(edges + 1, found.get(above, edges + 1))
        lists[point] = found
        entries += len(found)
        if entries > bound:
            raise MemoryError(
                f"the lists of what is above each of this DAG's {virtual:,} points would take more "
                f"than {entries:,} entries, which this machine has no memory for"
            )
    ptr = np.cumsum([0, *map(len, lists)])
    pairs = [pair for found in lists for pair in sorted(found.items())]
    above, edges = np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()
    return ptr.astype(np.int64), above, edges


def ancestry_of(points: Points, device: torch.device) -> TreeAncestry | DagAncestry:
    """The ancestry of the points on `device`, found once."""
    kind = TreeAncestry if points.hierarchy.is_tree else DagAncestry
    tables = Tables.of(points.hierarchy)
    return tables.derived(("ancestry", device), lambda: kind(points, device))


def tree_ancestry_of(points: Points, device: torch.device, what: str) -> TreeAncestry:
    """The ancestry of the points of a tree or forest.

    Raises:
        ValueError: it is a DAG, for which `what` is not defined.
    """
    points.hierarchy.require_tree(what)
    ancestry = ancestry_of(points, device)
    assert isinstance(ancestry, TreeAncestry)
    return ancestry
