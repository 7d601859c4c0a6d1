"""Closure tables: all that the ops over a DAG know of it.

Where nodes may have several parents, no order of the columns makes those below every node an
interval. So the table lists them: every column once under each node that it is at or below.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .dag_plan import build_dag_plan
from .layout import lay_out
from .memory import memory_bytes
from .spanning_tree import NUM_TENSORS, SpanningTree, build_spanning_tree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bool = NDArray[np.bool_]
    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]

__all__ = ["ClosureTable", "Intervals", "Ragged", "build_closure_table", "longest_paths"]

# Lists are merged in chunks of about this many entries, so that temporaries stay small.
_CHUNK_ENTRIES = 1 << 22

# Every pair of a node and a column is stored twice, by node and by column, int32 each.
_BYTES_PER_ENTRY = 8
# While the second list is sorted out of the first there are both, the node of each entry, and an
# int64 order.
_PEAK_BYTES_PER_ENTRY = 24

# Lists form a bucket, and are read together, if the longest is at most so many times the shortest.
_LENGTHS_APART = 1.25


class Ragged(NamedTuple):
    """G lists of different lengths; tensors on one device.

    Attributes:
        ptr: int64 (G+1), bounds of each list in `item`.
        item: int32, the lists one after the other.
        by_length: int64 (G), the numbers of the lists in the order of their lengths.
        place: int64 (G), each list's index in `by_length`.
        buckets: (first, last, length): by_length[first] … by_length[last] are not empty and have
            up to `length` items.
    """

    ptr: Tensor
    item: Tensor
    by_length: Tensor
    place: Tensor
    buckets: tuple[tuple[int, int, int], ...]

    @property
    def num_lists(self) -> int:
        """G."""
        return self.by_length.shape[0]


class Intervals(NamedTuple):
    """The columns below each node as intervals of positions; tensors on one device.

    The columns are numbered along a tree of the DAG's links, so that there are few intervals.

    Attributes:
        order: int32 (C), position → column.
        ptr: int32 (N+1), bounds of each node's intervals.
        start, stop: int32, the intervals of each node, ascending, with gaps between them.
        parent_ptr: int32 (N+1), bounds of each node's parents in `parent`.
        parent: int32 (E).
        height: int32 (N), edges on the longest path down; parents have more than their children.
    """

    order: Tensor
    ptr: Tensor
    start: Tensor
    stop: Tensor
    parent_ptr: Tensor
    parent: Tensor
    height: Tensor


class ClosureTable(NamedTuple):
    """A DAG of N nodes over the C columns of the logits as flat arrays; tensors on one device.

    An edge leads from a parent to a child. The edges are listed level by level, by the height of
    the child (edges on the longest path down from it), so that all edges out of a node come before
    all edges into it.

    Attributes:
        below: for each node the columns at or below it, each once, ascending.
        above: for each column the nodes that it is at or below, each once, ascending.
        edge_parent, edge_child: int32 (E).
        num_parents: int32 (N).
        column_node: int32 (C), the node of each column.
        edge_level_ptr: level l is the edges from edge_level_ptr[l] to edge_level_ptr[l + 1] − 1.
        intervals: the columns below each node once more, as intervals; and the nodes' parents.
        spanning: a tree of the DAG's links, and what the DAG has beyond it.
        plan: int32, how the CPU's kernels of `dag_log_loss` add up values (`build_dag_plan`).
    """

    below: Ragged
    above: Ragged
    edge_parent: Tensor
    edge_child: Tensor
    num_parents: Tensor
    column_node: Tensor
    edge_level_ptr: tuple[int, ...]
    intervals: Intervals
    spanning: SpanningTree
    plan: Tensor

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.num_parents.device

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.num_parents.shape[0]

    @property
    def num_classes(self) -> int:
        """C."""
        return self.column_node.shape[0]

    @property
    def num_places(self) -> int:
        """N: values are kept at the nodes themselves, not at places as with a `TreeTable`."""
        return self.num_nodes

    @property
    def place(self) -> Tensor:
        """int32 (N), the node itself, or −1 where no column is at or below it."""
        node = torch.arange(self.num_nodes, dtype=torch.int32, device=self.ptr.device)
        return torch.where(self.ptr.diff() > 0, node, -1)

    @property
    def ptr(self) -> Tensor:
        """int64 (N+1), bounds of each node's columns in `column`."""
        return self.below.ptr

    @property
    def column(self) -> Tensor:
        """int32, the columns at or below node 0, those at or below node 1, …"""
        return self.below.item

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the table, in the order in which the native ops take them.

        The native ops read the intervals, the spanning tree and the plan.
        """
        edges = (self.edge_parent, self.edge_child, self.num_parents, self.column_node)
        lists = (*self.below[:4], *self.above[:4])
        return [*self.intervals, *self.spanning.tensors, self.plan, *lists, *edges]

    @property
    def sizes(self) -> list[int]:
        """All numbers of the table: the lengths of several lists, and then these lists.

        They are the levels of the spanning tree, those of the nodes by height, those of the edges,
        and the buckets of the lists of columns and of nodes.
        """
        parts = (
            self.spanning.tree.level_ptr,
            self.spanning.height_ptr,
            self.edge_level_ptr,
            [size for bucket in self.below.buckets for size in bucket],
            [size for bucket in self.above.buckets for size in bucket],
        )
        return [*map(len, parts), *(size for part in parts for size in part)]

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor], sizes: Sequence[int]) -> ClosureTable:
        """The table from its `tensors` and `sizes`."""
        parts = np.split(np.array(sizes[5:]), np.cumsum(sizes[:4]))
        levels, heights, edge_levels, below, above = (part.tolist() for part in parts)

        def lists(of: Sequence[Tensor], buckets: list[int]) -> Ragged:
            bounds = zip(buckets[::3], buckets[1::3], buckets[2::3], strict=True)
            return Ragged(of[0], of[1], of[2], of[3], tuple(bounds))

        rest = iter(tensors)

        def take(count: int) -> list[Tensor]:
            return [*islice(rest, count)]

        intervals = Intervals(*take(len(Intervals._fields)))
        spanning = SpanningTree.of_tensors(take(NUM_TENSORS), levels, heights)
        (plan,) = take(1)
        below_each, above_each = lists(take(4), below), lists(take(4), above)
        edge_parent, edge_child, num_parents, column_node = take(4)
        return cls(
            below_each,
            above_each,
            edge_parent,
            edge_child,
            num_parents,
            column_node,
            tuple(edge_levels),
            intervals,
            spanning,
            plan,
        )

    def to(self, device: torch.device | str) -> ClosureTable:
        """The same table on `device`."""
        return self.of_tensors([tensor.to(device) for tensor in self.tensors], self.sizes)


def build_closure_table(edges: Int64, num_nodes: int, classes: Int64) -> ClosureTable:
    """The table of a DAG, on the CPU.

    Args:
        edges: int64 (E, 2), distinct pairs (parent, child).
        num_nodes: N.
        classes: int64 (C), the nodes that the logits have as columns.

    Raises:
        MemoryError: the table would not fit in memory.
        ValueError: the edges form a cycle.
    """
    parent, child = edges[:, 0], edges[:, 1]
    depth = longest_paths(parent, child, num_nodes)
    height = longest_paths(child, parent, num_nodes)
    if num_nodes and min(depth.min(), height.min()) < 0:
        raise ValueError(
            "edges contain a cycle; longest_paths gives -1 to the nodes on it or reached from it"
        )
    # A class has at least as many ancestors as its longest path has nodes.
    _refuse_beyond_memory(int(depth[classes].sum()) + len(classes), num_nodes, len(classes))

    by_level = np.lexsort((child, parent, height[child]))
    ptr, column = _columns_below(edges, height, classes)
    above_ptr = _bounds(np.bincount(column, minlength=len(classes)))
    order = np.argsort(column, kind="stable")
    above = np.repeat(np.arange(num_nodes, dtype=np.int32), np.diff(ptr))[order]
    del order
    by_child = np.lexsort((parent, child))
    parent_ptr = _bounds(np.bincount(child, minlength=num_nodes))
    first_parent = np.full(num_nodes, -1, np.int64)
    has_parents = parent_ptr[1:] > parent_ptr[:-1]
    first_parent[has_parents] = parent[by_child][parent_ptr[:-1][has_parents]]
    layout = lay_out(first_parent, classes)
    column_at = layout.column
    if column_at is None:
        column_at = np.arange(len(classes), dtype=np.int32)
    interval_ptr, start, stop = _intervals(column_at, ptr, column)
    spanning = build_spanning_tree(
        (parent, child), height, first_parent, classes, layout, (interval_ptr, start, stop)
    )
    of_nodes = column_at, interval_ptr, start, stop, parent_ptr, parent[by_child], height
    return ClosureTable(
        below=_ragged(ptr, column),
        above=_ragged(above_ptr, above),
        edge_parent=torch.from_numpy(parent[by_level].astype(np.int32)),
        edge_child=torch.from_numpy(child[by_level].astype(np.int32)),
        num_parents=torch.from_numpy(np.bincount(child, minlength=num_nodes).astype(np.int32)),
        column_node=torch.from_numpy(classes.astype(np.int32)),
        edge_level_ptr=tuple(_bounds(np.bincount(height[child])).tolist()),
        intervals=Intervals(*(torch.from_numpy(array.astype(np.int32)) for array in of_nodes)),
        spanning=spanning,
        plan=build_dag_plan(spanning, parent_ptr, parent[by_child]),
    )


def _intervals(order: Int32, ptr: Int64, column: Int32) -> tuple[Int64, Int32, Int32]:
    """The columns below each node as intervals of positions: their bounds, starts and stops."""
    num_nodes, num_classes = len(ptr) - 1, len(order)
    position = np.empty(num_classes, np.int64)
    position[order] = np.arange(num_classes)

    interval_ptr = np.zeros(num_nodes + 1, np.int64)
    starts, stops = [], []
    first = 0
    while first < num_nodes:  # in chunks, so that temporaries stay small
        last = int(np.searchsorted(ptr, ptr[first] + _CHUNK_ENTRIES, side="right")) - 1
        last = max(last, first + 1)
        node = np.repeat(np.arange(last - first), np.diff(ptr[first : last + 1]))
        # Sorted by node and position. A number that is not one more than that before it begins an
        # interval; the first number of a node always does.
        at = np.sort(node * (num_classes + 1) + position[column[ptr[first] : ptr[last]]])
        begins = np.flatnonzero(np.diff(at, prepend=-2) != 1)
        ends = np.append(begins[1:], len(at))[: len(begins)] - 1
        of, start = np.divmod(at[begins], num_classes + 1)
        starts.append(start.astype(np.int32))
        stops.append((at[ends] % (num_classes + 1) + 1).astype(np.int32))
        interval_ptr[first + 1 : last + 1] = np.bincount(of, minlength=last - first)
        first = last
    nothing = np.zeros(0, np.int32)
    return (
        np.cumsum(interval_ptr),
        np.concatenate([nothing, *starts]),
        np.concatenate([nothing, *stops]),
    )


def longest_paths(tail: Int64, head: Int64, num_nodes: int) -> Int64:
    """Edges on the longest path to each node along edges from `tail` to `head`, int64 (N).

    With the parents as tails these are depths; with the children as tails they are heights. Nodes
    on a cycle, and those to which a path leads from a cycle, get −1.
    """
    by_tail = np.argsort(tail, kind="stable")
    onwards = head[by_tail]
    ptr = _bounds(np.bincount(tail, minlength=num_nodes))
    waits_for = np.bincount(head, minlength=num_nodes)
    length = np.full(num_nodes, -1, np.int64)
    ready = np.flatnonzero(waits_for == 0)
    steps = 0
    while len(ready):
        length[ready] = steps
        reached = onwards[_ranges(ptr[ready], ptr[ready + 1])]
        np.subtract.at(waits_for, reached, 1)
        ready = np.unique(reached[waits_for[reached] == 0])
        steps += 1
    return length


def _columns_below(edges: Int64, height: Int64, classes: Int64) -> tuple[Int64, Int32]:
    """The columns at or below each node in CSR form, merged from the lists of its children."""
    num_nodes = len(height)
    own = np.full(num_nodes, -1, np.int64)
    own[classes] = np.arange(len(classes))
    by_parent = np.lexsort((edges[:, 0], height[edges[:, 0]]))
    parent, child = edges[by_parent].T
    level = height[parent]

    merged = _Lists(num_nodes, len(classes))
    leaf = np.flatnonzero((height == 0) & (own >= 0))
    merged.append(leaf, np.ones(len(leaf), np.int64), own[leaf])
    first = 0
    while first < len(parent):
        # One level of edges at a time, when the lists of all children are complete.
        level_end = int(np.searchsorted(level, level[first], side="right"))
        entries = np.cumsum(merged.length[child[first:level_end]])
        last = first + int(np.searchsorted(entries, _CHUNK_ENTRIES, side="right"))
        if last < level_end:  # whole parents only
            last = int(np.searchsorted(parent[first:level_end], parent[last])) + first
        if last > first:
            _merge(merged, parent[first:last], child[first:last], own)
        else:
            last = first + int(np.searchsorted(parent[first:level_end], parent[first], "right"))
            _merge_long(merged, parent[first], child[first:last], own)
        first = last
    return merged.joined()


def _merge(lists: _Lists, parent: Int64, child: Int64, own: Int64) -> None:
    """Appends the lists of some parents, given all their edges."""
    node, of_edge = np.unique(parent, return_inverse=True)
    has_own = np.flatnonzero(own[node] >= 0)
    group = np.concatenate([np.repeat(of_edge, lists.length[child]), has_own])
    column = np.concatenate([lists.of(child), own[node[has_own]]])
    # Distinct pairs (node, column), as one number each.
    group, column = np.divmod(np.unique(group * len(own) + column), len(own))
    lists.append(node, np.bincount(group, minlength=len(node)), column)


def _merge_long(lists: _Lists, node: int, child: Int64, own: Int64) -> None:
    """Appends the list of one parent whose children's lists do not fit in a chunk together."""
    is_below = np.zeros(len(own), np.bool_)
    if own[node] >= 0:
        is_below[own[node]] = True
    for one in child:
        is_below[lists.of(one[None])] = True
    column = np.flatnonzero(is_below)
    lists.append(np.array([node]), np.array([len(column)]), column)


class _Lists:
    """The columns below nodes, one list after the other in the order in which they are appended."""

    def __init__(self, num_nodes: int, num_classes: int):
        self.length = np.zeros(num_nodes, np.int64)
        self._start = np.zeros(num_nodes, np.int64)
        self._num_classes = num_classes
        self._column = np.empty(num_nodes, np.int32)
        self._num_entries = 0

    def of(self, nodes: Int64) -> Int32:
        """The lists of some nodes, one after the other."""
        start = self._start[nodes]
        return self._column[_ranges(start, start + self.length[nodes])]

    def append(self, nodes: Int64, length: Int64, column: Int64) -> None:
        """Appends the lists of nodes that do not have one yet.

        Raises:
            MemoryError: all lists together would not fit in memory.
        """
        begin, end = self._num_entries, self._num_entries + len(column)
        if end > len(self._column):
            _refuse_beyond_memory(end, len(self.length), self._num_classes)
            self._column = np.concatenate(
                [self._column[:begin], np.empty(max(begin, len(column)), np.int32)]
            )
        self._column[begin:end] = column
        self._num_entries = end
        self.length[nodes] = length
        self._start[nodes] = begin + np.cumsum(length) - length

    def joined(self) -> tuple[Int64, Int32]:
        """All lists by node id, in CSR form."""
        ptr = _bounds(self.length)
        column = np.empty(self._num_entries, np.int32)
        first = 0
        while first < len(self.length):
            last = int(np.searchsorted(ptr, ptr[first] + _CHUNK_ENTRIES, side="right")) - 1
            last = max(last, first + 1)
            column[ptr[first] : ptr[last]] = self.of(np.arange(first, last))
            first = last
        return ptr, column


def _refuse_beyond_memory(num_entries: int, num_nodes: int, num_classes: int) -> None:
    memory = memory_bytes()
    if num_entries * _PEAK_BYTES_PER_ENTRY > memory:
        raise MemoryError(
            f"the closure table of {num_nodes:,} nodes over {num_classes:,} columns would take at "
            f"least {num_entries * _BYTES_PER_ENTRY / 1e9:,.1f} GB ({num_entries:,} entries, one "
            f"for each column and each node that it is at or below), and three times that while "
            f"it is built; this machine has {memory / 1e9:,.1f} GB; shorten the DAG's long chains, "
            f"or give fewer classes"
        )


def _ragged(ptr: Int64, item: Int32) -> Ragged:
    length = np.diff(ptr)
    by_length = np.argsort(length, kind="stable")
    ascending = length[by_length]
    place = np.empty_like(by_length)
    place[by_length] = np.arange(len(by_length))
    buckets = []
    first = int(np.searchsorted(ascending, 1))
    while first < len(ascending):
        longest = int(ascending[first] * _LENGTHS_APART)
        last = int(np.searchsorted(ascending, longest, side="right"))
        buckets.append((first, last, int(ascending[last - 1])))
        first = last
    return Ragged(
        torch.from_numpy(ptr),
        torch.from_numpy(item),
        torch.from_numpy(by_length),
        torch.from_numpy(place),
        tuple(buckets),
    )


def _bounds(count: Int64) -> Int64:
    ptr = np.zeros(len(count) + 1, np.int64)
    np.cumsum(count, out=ptr[1:])
    return ptr


def _ranges(start: Int64, stop: Int64) -> Int64:
    """start[0] … stop[0], start[1] … stop[1], … one after the other."""
    length = stop - start
    bounds = _bounds(length)
    return np.repeat(start - bounds[:-1], length) + np.arange(bounds[-1])
