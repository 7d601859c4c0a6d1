"""A tree inside a DAG, over which the kernels of the DAG ops sweep.

The links from every node to its first parent form a tree. Many nodes have the same columns below
them in the DAG as in this tree. The columns below any other node are those of several subtrees of
the tree that have no column in common: its *parts*. So the sums of exponentials below all nodes of
the DAG take one sweep over the tree and, for some nodes, a few additions, none of which loses
digits. The gradient is that of the tree, if each such node hands its mass to its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layout import Layout
from .tree_table import TreeTable, build_tree_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]

__all__ = ["SpanningTree", "build_spanning_tree"]


class SpanningTree(NamedTuple):
    """A tree of a DAG's N nodes over the columns, and what the DAG has beyond it.

    The lowest node that has exactly the columns of a place of the tree keeps its values at that
    place (of several the first). All other nodes with a column are *mixed*: they have places of
    their own after the P places of the tree, P, P + 1, …, P + X − 1.

    Attributes:
        tree: the tree.
        height_ptr: the nodes of height h are by_height[height_ptr[h]] … by_height[height_ptr[h + 1]
            − 1].
        place: int32 (N), each node's place, below P + X, or −1 if it has no column.
        part_ptr: int32 (X + 1), bounds in `part` of the parts of each mixed node.
        part: int32, places of the tree without a common column, in ascending order of position.
        holder_ptr: int32 (P + 1), bounds in `holder` of the mixed nodes that each place is part of.
        holder: int32, 0 … X − 1.
        by_height: int32 (N), the nodes, with children before their parents.
        child_ptr: int32 (N + 1), bounds in `child` of each node's children in the DAG.
        child: int32 (E), nodes.
    """

    tree: TreeTable
    height_ptr: tuple[int, ...]
    place: Tensor
    part_ptr: Tensor
    part: Tensor
    holder_ptr: Tensor
    holder: Tensor
    by_height: Tensor
    child_ptr: Tensor
    child: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the tree, in the order in which the native ops take them."""
        return [*self.tree.tensors, *self[2:]]

    @classmethod
    def of_tensors(
        cls, tensors: Sequence[Tensor], level_ptr: Sequence[int], height_ptr: Sequence[int]
    ) -> SpanningTree:
        """The tree, from its `tensors`, its levels and those of the DAG."""
        tree = TreeTable.of_tensors(tensors[:5], level_ptr)
        return cls(tree, tuple(height_ptr), *tensors[5:])


#: How many tensors a SpanningTree has.
NUM_TENSORS = 13


def build_spanning_tree(
    edges: tuple[Int64, Int64],
    height: Int64,
    first_parent: Int64,
    classes: Int64,
    layout: Layout,
    intervals: tuple[Int64, Int32, Int32],
) -> SpanningTree:
    """Builds it from a DAG and the tree of its nodes' first parents, on the CPU.

    Args:
        edges: int64 (E) parents and int64 (E) children.
        height: int64 (N), edges on the longest path down.
        first_parent: int64 (N), −1 at a root.
        classes: int64 (C), the nodes that the logits have as columns.
        layout: the layout of `first_parent` and `classes`.
        intervals: the positions of the columns below each node, as int64 (N + 1) bounds and the
            int32 starts and stops of intervals, ascending, with gaps between them.
    """
    tree = build_tree_table(layout, first_parent, classes)
    num_nodes, num_places = len(height), tree.num_places
    node, part = _parts(tree, layout, len(classes), *intervals)
    num_parts = np.bincount(node, minlength=num_nodes)

    place = np.full(num_nodes, -1, np.int64)
    alone = np.flatnonzero(num_parts == 1)
    alone = alone[np.argsort(height[alone], kind="stable")]
    of_alone = part[np.searchsorted(node, alone)]
    taken, first = np.unique(of_alone, return_index=True)
    place[alone[first]] = taken
    mixed = np.flatnonzero((num_parts > 0) & (place < 0))
    place[mixed] = num_places + np.arange(len(mixed))
    of_mixed = part[place[node] >= num_places]
    part_ptr = _bounds(num_parts[mixed])
    holder = np.repeat(np.arange(len(mixed)), num_parts[mixed])

    parent, child = edges
    by_parent = np.lexsort((child, parent))
    arrays = (
        place,
        part_ptr,
        of_mixed,
        _bounds(np.bincount(of_mixed, minlength=num_places)),
        holder[np.argsort(of_mixed, kind="stable")],
        np.argsort(height, kind="stable"),
        _bounds(np.bincount(parent, minlength=num_nodes)),
        child[by_parent],
    )
    tensors = (torch.from_numpy(array.astype(np.int32)) for array in arrays)
    return SpanningTree(tree, tuple(_bounds(np.bincount(height)).tolist()), *tensors)


def _parts(
    tree: TreeTable, layout: Layout, num_classes: int, ptr: Int64, start: Int32, stop: Int32
) -> tuple[Int64, Int64]:
    """The parts of all nodes: int64 nodes, ascending, and the int64 places of their parts."""
    # Each interval as one number, with the lowest place that has it.
    column = np.arange(num_classes) if layout.column is None else layout.column
    has_inner = np.flatnonzero(tree.place.numpy() >= num_classes)
    of_column = np.arange(num_classes) * (num_classes + 2) + 1
    of_inner = layout.start[has_inner] * np.int64(num_classes + 1) + layout.stop[has_inner]
    keys, first = np.unique(np.concatenate([of_column, of_inner]), return_index=True)
    place = np.concatenate([column, tree.place.numpy()[has_inner]]).astype(np.int64)[first]
    end = keys % (num_classes + 1)

    # From the left on, always take the largest subtree that begins there and is inside.
    interval = np.arange(len(start))
    at, last = start.astype(np.int64), stop.astype(np.int64)
    intervals, parts = [interval[:0]], [place[:0]]
    while len(interval):
        found = np.searchsorted(keys, at * (num_classes + 1) + last, side="right") - 1
        intervals.append(interval)
        parts.append(place[found])
        at = end[found]
        left = at < last
        interval, at, last = interval[left], at[left], last[left]
    of_interval = np.concatenate(intervals)
    ascending = np.argsort(of_interval, kind="stable")
    node = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    return node[of_interval[ascending]], np.concatenate(parts)[ascending]


def _bounds(count: Int64) -> Int64:
    ptr = np.zeros(len(count) + 1, np.int64)
    np.cumsum(count, out=ptr[1:])
    return ptr
