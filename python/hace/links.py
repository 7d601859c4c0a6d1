"""The links of a hierarchy as arrays: node v's parents are `parent[parent_ptr[v]:parent_ptr[v+1]]`.

The functions here check links and compute depths, heights and the like. They know nothing of a
hierarchy but its links and, for error messages, its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from hace_kernels import longest_paths, topological_order

from .tree_checks import checked_ids, describe, refuse_cycle, refuse_own_parent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

__all__ = ["Links"]


class Links:
    """Who is below whom, in CSR form; read-only arrays.

    Args:
        parent_ptr: int64 (N + 1), bounds of each node's parents in `parent`.
        parent: int64 (E), each node's parents, ascending.

    Attributes:
        num_nodes: N.
        is_tree: whether no node has several parents.
    """

    def __init__(self, parent_ptr: Int64, parent: Int64) -> None:
        self.parent_ptr = read_only(parent_ptr)
        self.parent = read_only(parent)
        # Plain numbers, since torch.compile can guard these but not arrays.
        self.num_nodes = len(parent_ptr) - 1
        self.is_tree = not bool((self.num_parents > 1).any())

    @classmethod
    def of_parents(cls, parents: Int64) -> Links:
        """Links from each node's one parent, -1 at a root."""
        has_parent = parents >= 0
        return cls(_bounds(has_parent), parents[has_parent])

    @classmethod
    def of_edges(cls, edges: Int64, num_nodes: int) -> Links:
        """Links from distinct pairs (parent, child), int64 (E, 2), in any order."""
        parent, child = edges.T
        by_child = np.lexsort((parent, child))
        return cls(_bounds(np.bincount(child, minlength=num_nodes)), parent[by_child])

    @cached_property
    def num_parents(self) -> Int64:
        """Each node's number of parents, int64 (N)."""
        return np.diff(self.parent_ptr)

    @cached_property
    def child(self) -> Int64:
        """The child of each link, beside `parent`; int64 (E)."""
        return np.repeat(np.arange(self.num_nodes), self.num_parents)

    @cached_property
    def parents(self) -> Int64:
        """Each node's one parent in a tree, -1 at a root; int64 (N)."""
        parents = np.full(self.num_nodes, -1)
        parents[self.num_parents > 0] = self.parent
        return read_only(parents)

    @cached_property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Whether a node has no children, bool (N)."""
        is_leaf = np.ones(self.num_nodes, np.bool_)
        is_leaf[self.parent] = False
        return is_leaf

    @cached_property
    def depths(self) -> Int64:
        """Edges on the longest path from a root, int64 (N); -1 on a cycle and below one."""
        if not self.is_tree:
            return read_only(longest_paths(self.parent, self.child, self.num_nodes))
        depths = np.full(self.num_nodes, -1)
        for depth, nodes in enumerate(self.levels):
            depths[nodes] = depth
        return read_only(depths)

    @cached_property
    def heights(self) -> Int64:
        """Edges on the longest path down to a leaf, int64 (N)."""
        if not self.is_tree:
            return read_only(longest_paths(self.child, self.parent, self.num_nodes))
        heights = np.zeros(self.num_nodes, np.int64)
        for nodes in self.levels[:0:-1]:
            np.maximum.at(heights, self.parents[nodes], heights[nodes] + 1)
        return read_only(heights)

    def parents_of(self, node: int) -> Int64:
        """A node's parents, ascending."""
        return self.parent[self.parent_ptr[node] : self.parent_ptr[node + 1]]

    @property
    def edges(self) -> Int64:
        """(parent, child) of each link, int64 (E, 2)."""
        return np.stack([self.parent, self.child], 1)

    def children_of(self, node: int) -> Int64:
        """A node's children, ascending."""
        ptr, child = self._by_parent
        return child[ptr[node] : ptr[node + 1]]

    @cached_property
    def _by_parent(self) -> tuple[Int64, Int64]:
        order = np.argsort(self.parent, kind="stable")  # `child` ascends, so children do
        return _bounds(np.bincount(self.parent, minlength=self.num_nodes)), self.child[order]

    def above(self, node: int) -> list[int]:
        """The node and all nodes above it, by the fewest edges from it, then by id."""
        level = [node]
        found = dict.fromkeys(level)
        while level:
            parents = {int(parent) for node in level for parent in self.parents_of(node)}
            level = sorted(parents.difference(found))
            found.update(dict.fromkeys(level))
        return list(found)

    def refuse_cycles(self, names: Sequence[str] | None) -> None:
        """Raises ValueError if there is a cycle; the message names its nodes."""
        behind_cycle = self.depths < 0
        if not behind_cycle.any():
            return
        # To find a cycle one parent per node is enough, if it too is on or below a cycle.
        within = behind_cycle[self.parent] & behind_cycle[self.child]
        parents = np.full(self.num_nodes, -1)
        parents[self.child[within]] = self.parent[within]
        refuse_cycle(parents, behind_cycle, names)

    @property
    def levels(self) -> list[Int64]:
        """The nodes of each depth of a tree, the roots first; those on a cycle are left out."""
        order, level_ptr = topological_order(self.parents)
        return [order[first:last] for first, last in pairwise(level_ptr.tolist())]

    def sum_up(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of values (N) over each node's subtree in a tree."""
        sums: NDArray[np.float64] = values.copy()
        for nodes in self.levels[:0:-1]:
            np.add.at(sums, self.parents[nodes], sums[nodes])
        return sums


def checked_links(parent_ptr: Any, parent: Any, names: Sequence[str] | None) -> Links:
    """Links from a caller's arguments, checked except for cycles of more than one node.

    Raises:
        TypeError: the values are not integers.
        ValueError: bounds that do not ascend from 0 to the number of links, a parent out of range,
            given twice or its own child, another number of names than nodes.
    """
    ptr = checked_ids(parent_ptr, "parent_ptr").astype(np.int64)
    num_nodes = len(ptr) - 1
    links = np.asarray(parent)
    links = checked_ids(links, "parent").astype(np.int64) if links.size else np.empty(0, np.int64)
    if num_nodes < 1 or ptr[0] != 0 or ptr[-1] != len(links) or (np.diff(ptr) < 0).any():
        raise ValueError(
            f"parent_ptr must hold N + 1 bounds that ascend from 0 to the {len(links)} entries of "
            f"parent, for N nodes; got {_shown(ptr)}"
        )
    if names is not None and len(names) != num_nodes:
        raise ValueError(
            f"{len(names)} names for {num_nodes} nodes; give every node exactly one name"
        )
    bad = np.flatnonzero((links < 0) | (links >= num_nodes))
    child = np.repeat(np.arange(num_nodes), np.diff(ptr))
    if len(bad):
        raise ValueError(
            f"{describe(int(child[bad[0]]), names)} has parent {links[bad[0]]}, which is out of "
            f"range; parents are node ids from 0 to {num_nodes - 1}"
        )
    own = np.flatnonzero(links == child)
    if len(own):
        refuse_own_parent(int(child[own[0]]), names)
    links = links[np.lexsort((links, child))]
    twice = np.flatnonzero((np.diff(links) == 0) & (np.diff(child) == 0))
    if len(twice):
        raise ValueError(
            f"{describe(int(child[twice[0]]), names)} has {describe(int(links[twice[0]]), names)} "
            "as a parent twice; give every parent once"
        )
    return Links(ptr, links)


def read_only(array: Int64) -> Int64:
    """The array, made read-only."""
    array.setflags(write=False)
    return array


def _bounds(counts: NDArray[Any]) -> Int64:
    bounds = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    return bounds


def _shown(array: Int64) -> str:
    return np.array2string(array, threshold=8)
