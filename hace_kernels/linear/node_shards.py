"""How a tree's nodes, and its classes with them, are divided among processes.

In depth-first order, parents first, every subtree is a run of nodes. Each process holds a run of
all nodes, and the classes that begin in it. Of the nodes above these classes it lacks only those
above its first node: one path, at most as long as the tree is deep (`SharedNodes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .node_sums import NodeSums, build_node_sums, has_classes_below
from .shard import Exchange
from .shared_nodes import SharedNodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]

__all__ = ["NodeShards"]


class NodeShards:
    """How a tree's nodes, and its classes with them, are divided among processes.

    Each process has ⌈N/p⌉ nodes, and the last ones what is left.

    Args:
        count: p.
        start, stop: int32 (N), bounds of the class positions at or below each node.
        parents: int64 (N), −1 at a root.
        depths: int64 (N).
        class_nodes: int64 (C), the node of each class position.

    Attributes:
        order: int64 (N), the nodes in depth-first order, parents first; nodes without a class at or
            below them come last.
        rows: p + 1 bounds of each process's nodes in `order`.
        positions: p + 1 bounds of its classes.
    """

    def __init__(
        self,
        count: int,
        start: Int32,
        stop: Int32,
        parents: Int64,
        depths: Int64,
        class_nodes: Int64,
    ) -> None:
        self._start, self._stop, self._parents, self._depths = start, stop, parents, depths
        self._class_nodes = class_nodes
        num_nodes, num_classes = len(parents), len(class_nodes)
        begins = np.where(start < stop, start, num_classes)
        self.order = np.lexsort((depths, begins)).astype(np.int64)
        each = -(-num_nodes // count)
        self.rows = [min(num_nodes, rank * each) for rank in range(count + 1)]
        begins = np.append(begins[self.order], num_classes)
        self.positions = [0, *(int(begins[row]) for row in self.rows[1:])]

    def node_sums(self, rank: int, exchange: Exchange) -> NodeSums:
        """How the vectors of one process's nodes add up to those of its classes, on the CPU.

        The vectors are those of `order[rows[rank] : rows[rank + 1]]`.
        """
        (first_row, last_row), (first, last) = (
            bounds[rank : rank + 2] for bounds in (self.rows, self.positions)
        )
        own, above = self.order[first_row:last_row], self._above(rank)
        row = np.empty(len(self.order), np.int64)
        row[self.order] = np.arange(len(self.order))
        shared = [self._above(other) for other in range(1, len(self.rows) - 1)]
        slots = np.unique(row[np.concatenate([own[:0], *shared])])
        is_here = (slots >= first_row) & (slots < last_row)

        nodes = np.concatenate([own, above])
        start, stop = self._start[nodes] - first, self._stop[nodes] - first
        outside = (start >= last - first) | (stop <= 0) | (start >= stop)
        start[len(own) :] = -1  # other processes need them too, even if all their classes are here
        start[outside] = stop[outside] = 0
        local = np.full(len(self.order) + 1, -1, np.int64)  # and −1 for no parent
        local[nodes] = np.arange(len(nodes))
        is_inner = has_classes_below(self._start, self._stop, self._parents)[nodes]
        return build_node_sums(
            start,
            stop,
            local[self._parents[nodes]],
            self._depths[nodes],
            local[self._class_nodes[first:last]],
            is_inner & ~outside,
            SharedNodes(
                num_nodes=len(own),
                size=len(slots),
                row=torch.from_numpy(slots[is_here] - first_row),
                slot=torch.from_numpy(np.flatnonzero(is_here)),
                above=torch.from_numpy(np.searchsorted(slots, row[above])),
                exchange=exchange,
            ),
        )

    def _above(self, rank: int) -> Int64:
        """The nodes above a process's first one, from the root down; none if it has no classes."""
        found: list[int] = []
        if self.positions[rank] < self.positions[-1]:
            node = int(self._parents[self.order[self.rows[rank]]])
            while node >= 0:
                found.append(node)
                node = int(self._parents[node])
        return np.array(found[::-1], np.int64)
