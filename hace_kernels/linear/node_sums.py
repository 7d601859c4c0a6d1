"""Class weights that are sums of node vectors down a tree, computed tile by tile.

The weight of a class is the sum of the vectors of its node and of all nodes above it. In
depth-first order, the inner nodes above a tile of classes are contiguous in every level (a *run*).
So the tile's weights are computed from these runs, level by level, and from the vectors of its own
leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..rows import loss_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .shared_nodes import SharedNodes

    Bool = NDArray[np.bool_]
    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]

__all__ = ["NodeSums", "Tile", "build_node_sums", "has_classes_below"]


@dataclass(frozen=True, eq=False)
class Level:
    """The inner nodes of one depth that have a class below them, by their first class position.

    Attributes:
        node: int64 (n), ids.
        parent: int64 (n), the indices of their parents in the level above; empty for the roots.
        start, stop: int32 (n), bounds of class positions, on the host. If classes are distributed
            over processes, they may begin before the first class of this process and end after its
            last one.
    """

    node: Tensor
    parent: Tensor
    start: Int32
    stop: Int32

    def to(self, device: torch.device | str) -> Level:
        """The same with its tensors on `device`."""
        return replace(self, node=self.node.to(device), parent=self.parent.to(device))


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes in the order of their positions.

    Attributes:
        node: int64 (C), ids.
        level, place: int64 (C), the inner node of each class, or the one above it if its node is a
            leaf. A leaf without a parent has the number of levels, and place 0.
        inner: int64, ascending, the positions of the classes at inner nodes.
    """

    node: Tensor
    level: Tensor
    place: Tensor
    inner: Tensor

    def to(self, device: torch.device | str) -> Classes:
        """The same on `device`."""
        return Classes(*(getattr(self, name).to(device) for name in self.__annotations__))


class Run(NamedTuple):
    """The nodes of a level above a tile, by index: first .. last.

    Those in first_inner .. last_inner are above no other tile; at most one at either end is.
    """

    first: int
    last: int
    first_inner: int
    last_inner: int


class Tile(NamedTuple):
    """The nodes above one tile of classes.

    Inner nodes have rows in a table of sums, level by level from row 1 on; row 0 is 0.

    Attributes:
        first, last: bounds of class positions.
        runs: the run of each level, from the roots down.
        rows: the rows of each run in the table.
        num_rows: the number of rows of the table.
        inner: bounds in `Classes.inner`.
    """

    first: int
    last: int
    runs: list[Run]
    rows: list[slice]
    num_rows: int
    inner: slice


class NodeSums:
    """How node vectors add up to class weights.

    Args:
        levels: the levels of the tree's inner nodes, from the roots down.
        classes: the classes of the tree.
        num_nodes: N, the rows of the vectors.
        shared: which vectors several processes need, if classes are distributed over processes. A
            level may then begin with a node whose vector another process has; its id is N or more.

    Attributes:
        num_classes: C.
        num_nodes, shared: as given.
    """

    def __init__(
        self,
        levels: list[Level],
        classes: Classes,
        num_nodes: int,
        shared: SharedNodes | None = None,
    ) -> None:
        self._levels, self._classes, self.shared = levels, classes, shared
        self.num_classes, self.num_nodes = len(classes.node), num_nodes
        self.tiles = lru_cache(8)(self._find_tiles)

    def to(self, device: torch.device | str) -> NodeSums:
        """The same on `device`."""
        levels = [level.to(device) for level in self._levels]
        shared = None if self.shared is None else self.shared.to(device)
        return NodeSums(levels, self._classes.to(device), self.num_nodes, shared)

    def crossing(self, width: int) -> Tensor:
        """The inner nodes whose classes are in several tiles of this width or processes, int64."""
        found = [self._classes.node[:0]]
        for level in self._levels:
            is_crossing = level.start // width != (level.stop - 1) // width
            is_crossing |= level.stop > self.num_classes
            found.append(level.node[torch.from_numpy(is_crossing).to(level.node.device)])
        return torch.cat(found)

    def down(self, vectors: Tensor, tile: Tile, elsewhere: Tensor | None = None) -> Tensor:
        """The sums of a tile's classes.

        Args:
            vectors: (N, …), those of the nodes.
            elsewhere: (A, …), those of the nodes from N on, which other processes have.

        Returns:
            (T, …), float64 for float64 vectors and float32 otherwise.
        """
        dtype, classes = loss_dtype(vectors.dtype), self._classes
        table = vectors.new_empty((tile.num_rows, *vectors.shape[1:]), dtype=dtype)
        table[0] = 0
        above, first_above = table, 0
        for level, run, rows in zip(self._levels, tile.runs, tile.rows, strict=False):
            each = table[rows]
            node = level.node[run.first : run.last]
            if elsewhere is not None and run.first == 0 and level.start[0] < 0:
                each[0] = elsewhere[node[0] - self.num_nodes]
                each[1:] = vectors.index_select(0, node[1:])
            else:
                each.copy_(vectors.index_select(0, node))
            if len(level.parent):
                each += above.index_select(0, level.parent[run.first : run.last] - first_above)
            above, first_above = each, run.first
        sums = vectors.index_select(0, classes.node[tile.first : tile.last]).to(dtype)
        if tile.inner.start < tile.inner.stop:
            sums.index_fill_(0, classes.inner[tile.inner] - tile.first, 0)
        sums += table.index_select(0, self._rows_above(tile))
        return sums

    def up(self, grad: Tensor, tile: Tile) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """The transpose of `down`: the gradients of the nodes over a tile, from the leaves up.

        Args:
            grad: (T, …), that of the tile's classes, float64 or float32.

        Yields:
            Nodes, int64 (n); the sums over their classes in the tile, (n, …); and a slice of those
            that do not have classes in other tiles.
        """
        classes = self._classes
        table = grad.new_zeros((tile.num_rows, *grad.shape[1:]))
        table.index_add_(0, self._rows_above(tile), grad)
        node = classes.node[tile.first : tile.last]
        if tile.inner.start < tile.inner.stop:
            is_leaf = torch.ones_like(node, dtype=torch.bool)
            is_leaf[classes.inner[tile.inner] - tile.first] = False
            node, grad = node[is_leaf], grad[is_leaf]
        yield node, grad, slice(0, len(node))
        for depth in reversed(range(len(tile.runs))):
            level, run, sums = self._levels[depth], tile.runs[depth], table[tile.rows[depth]]
            if depth:
                parent = level.parent[run.first : run.last] - tile.runs[depth - 1].first
                table[tile.rows[depth - 1]].index_add_(0, parent, sums)
            inner = slice(run.first_inner - run.first, run.last_inner - run.first)
            yield level.node[run.first : run.last], sums, inner

    def _rows_above(self, tile: Tile) -> Tensor:
        """The row of the inner node above each class of a tile, int64 (T)."""
        classes, device = slice(tile.first, tile.last), self._classes.node.device
        shifts = [rows.start - run.first for run, rows in zip(tile.runs, tile.rows, strict=True)]
        shifts += [0] * (len(self._levels) + 1 - len(shifts))
        shift = torch.tensor(shifts, device=device)
        return self._classes.place[classes] + shift[self._classes.level[classes]]

    def _find_tiles(self, width: int) -> list[Tile]:
        """The tiles of this width."""
        firsts = np.arange(0, self.num_classes, width)
        lasts = np.minimum(firsts + width, self.num_classes)
        by_level = []
        for level in self._levels:
            first_inner = np.searchsorted(level.start, firsts)
            bounds = (
                np.searchsorted(level.stop, firsts, "right"),
                np.searchsorted(level.start, lasts),
                first_inner,
                np.maximum(first_inner, np.searchsorted(level.stop, lasts, "right")),
            )
            by_level.append([Run(*each) for each in np.stack(bounds, 1).tolist()])
        inner = np.searchsorted(self._classes.inner.cpu().numpy(), np.append(firsts, lasts[-1:]))
        tiles = []
        for index, (first, last) in enumerate(zip(firsts.tolist(), lasts.tolist(), strict=True)):
            runs = [of_level[index] for of_level in by_level]
            runs = [run for run in runs if run.first < run.last]
            ends = np.cumsum([1, *(run.last - run.first for run in runs)]).tolist()
            rows = [slice(*pair) for pair in pairwise(ends)]
            of_inner = slice(int(inner[index]), int(inner[index + 1]))
            tiles.append(Tile(first, last, runs, rows, ends[-1], of_inner))
        return tiles


def has_classes_below(start: Int32, stop: Int32, parents: Int64) -> Bool:
    """Which nodes are inner ones, with a class below them; bool (N)."""
    is_inner = np.zeros(len(parents), bool)
    is_inner[parents[(parents >= 0) & (start < stop)]] = True
    return is_inner


def build_node_sums(
    start: Int32,
    stop: Int32,
    parents: Int64,
    depths: Int64,
    class_nodes: Int64,
    is_inner: Bool | None = None,
    shared: SharedNodes | None = None,
) -> NodeSums:
    """The sums of a tree, on the CPU.

    Args:
        start, stop: int32 (N), bounds of the class positions at or below each node.
        parents: int64 (N), −1 at a root.
        depths: int64 (N).
        class_nodes: int64 (C), the node of each class position.
        is_inner: bool (N), as `has_classes_below` tells of the whole tree where this is a part.
        shared: of the vectors, which are fewer then: nodes beyond them are from other processes.
    """
    num_nodes = len(parents)
    if is_inner is None:
        is_inner = has_classes_below(start, stop, parents)
    nodes = np.flatnonzero(is_inner)
    nodes = nodes[np.lexsort((start[nodes], depths[nodes]))]
    num_levels = int(depths[nodes].max(initial=-1)) + 1
    ends = np.searchsorted(depths[nodes], np.arange(num_levels + 1))
    place, levels = np.zeros(num_nodes, np.int64), []
    for depth in range(num_levels):
        node = nodes[ends[depth] : ends[depth + 1]]
        place[node] = np.arange(len(node))
        parent = place[parents[node]] if depth else node[:0]
        levels.append(
            Level(torch.from_numpy(node), torch.from_numpy(parent), start[node], stop[node])
        )
    inner = np.flatnonzero(is_inner[class_nodes])
    above = np.where(is_inner[class_nodes], class_nodes, parents[class_nodes])
    has_above = above >= 0
    num_vectors = num_nodes if shared is None else shared.num_nodes
    # Of a class at an inner node only the sum above it is used.
    node_of_class = np.where(is_inner[class_nodes], 0, class_nodes)
    classes = Classes(
        node=torch.from_numpy(node_of_class),
        level=torch.from_numpy(np.where(has_above, depths[above], num_levels)),
        place=torch.from_numpy(np.where(has_above, place[above], 0)),
        inner=torch.from_numpy(inner),
    )
    return NodeSums(levels, classes, num_vectors, shared)
