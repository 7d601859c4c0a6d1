"""A tree as a tile of classes needs it: complete inside the tile, folded up outside.

A node *crosses the border* of a tile if it has classes both inside and outside it. In the tile's
tree, all that such a node has outside the tile is a single column. Once this column has the logit
of what it stands for, every probability in the tile's tree is the same as in the whole tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..reference.tree_sum import sum_below
from ..target_table import TargetTable
from ..tree_table import TreeTable
from .shard import LocalClasses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

__all__ = ["FoldedTree", "FoldedTrees", "TreeOfClasses"]

# Batches of different sizes have tiles of different widths; the last batch of an epoch is smaller.
_MAX_KEPT = 4


class FoldedTree(NamedTuple):
    """The tree over the T classes of a tile and E columns more.

    Attributes:
        tree: its nodes are the n inside the tile, then those that cross its border. Together with
            the virtual root, which comes last and is not a node, the latter are E. Columns
            T … T + E − 1 are what each has outside the tile and outside the crossing nodes below.
        place: int64 (P'), each place's number in the whole tree; the E columns have that of the
            virtual root.
        crossing: int64 (E), the crossing nodes, as indices into `FoldedTrees.crossing`.
        above: int64 (E), which of the E is above each; for the virtual root it is itself.
    """

    tree: TreeTable
    place: Tensor
    crossing: Tensor
    above: Tensor

    @property
    def width(self) -> int:
        """T."""
        return self.tree.num_classes - len(self.crossing)

    @property
    def num_inside(self) -> int:
        """n."""
        return self.tree.num_nodes - len(self.crossing) + 1

    @property
    def places_of_crossing(self) -> Tensor:
        """The tree's places of the crossing nodes, int64 (E)."""
        root = self.tree.place.new_full((1,), self.tree.num_places - 1)
        return torch.cat([self.tree.place[self.num_inside :], root]).long()

    @property
    def with_column(self) -> TreeTable:
        """The tree with its last column as one more node."""
        last = self.tree.place.new_full((1,), self.tree.num_classes - 1)
        return self.tree._replace(place=torch.cat([self.tree.place, last]))

    @property
    def inside(self) -> Tensor:
        """The tree's places of the nodes inside, int64 (n)."""
        return self.tree.place[: self.num_inside].long()


class FoldedTrees(NamedTuple):
    """The trees of all tiles of a process's classes.

    Attributes:
        tiles: the tiles, in the order of their classes.
        width: the classes per tile; the last tile may have fewer.
        crossing: int64 (X), places in the whole tree of all nodes that cross a border of a tile or
            of a process, and of the virtual root, the last.
        is_shared: bool (X), whether a node crosses a border of a process; the same nodes in all
            processes. Not the virtual root, whose sum is known from the rings.
        above: int64 (X), which of the X is above each; for the virtual root it is itself.
        level_ptr: bounds of the tree's levels among the X, the deepest first.
    """

    tiles: tuple[FoldedTree, ...]
    width: int
    crossing: Tensor
    is_shared: Tensor
    above: Tensor
    level_ptr: tuple[int, ...]


class TreeOfClasses:
    """A tree, and where its nodes' classes are; it folds the tree for tiles.

    Args:
        tree: the tree over the C columns.
        position: int (C), column → class position, in which every subtree is contiguous; None if
            columns are positions.

    Attributes:
        tree: as given.
        start: int32 (P), the first class position of each place.
    """

    def __init__(self, tree: TreeTable, position: Tensor | None) -> None:
        self.tree = tree
        self._kept: dict[tuple[object, ...], FoldedTrees] = {}
        self._parent = tree.parent.cpu().numpy().astype(np.int64)
        self._num_columns = tree.num_columns.cpu().numpy().astype(np.int64)
        self._level = np.repeat(np.arange(len(tree.level_ptr) - 1), np.diff(tree.level_ptr))
        columns = np.arange(tree.num_classes) if position is None else position.cpu().numpy()
        self._start = self._below(columns, np.minimum)
        self.start = torch.from_numpy(self._start).to(tree.device, torch.int32)

    def kept(self, table: TargetTable) -> Tensor:
        """What each place keeps of 1 on every class, float64 (P); 0 where its probability is 1."""
        if table.risen is not None:
            reaching = table.risen.reaching
        else:
            reaching = sum_below(table.unit[None], self.tree, 1 - table.keep)[0]
        return torch.where(
            self.tree.num_columns == self.tree.num_classes, 0.0, table.keep * reaching
        )

    def classes_below(self, table: TargetTable) -> Tensor:
        """How many classes each place has at or below it, (P); for soft labels."""
        if table.risen is not None and table.risen.classes_below is not None:
            return table.risen.classes_below
        assert table.soft_labels is not None
        return sum_below(table.soft_labels.is_class[None], self.tree)[0]

    def _below(self, of_columns: NDArray[np.integer], merge: np.ufunc) -> Int64:
        """The smallest or largest value among each place's columns, int64 (P)."""
        num_classes, parent = self.tree.num_classes, self._parent
        least = np.iinfo(np.int64).max if merge is np.minimum else -1
        values = np.full(self.tree.num_places, least, np.int64)
        values[:num_classes] = of_columns
        levels = [num_classes + bound for bound in self.tree.level_ptr]
        for first, last in pairwise([0, *levels]):
            here = slice(first, min(last, len(values) - 1))
            merge.at(values, parent[here], values[here])
        return values

    def folded(
        self, classes: LocalClasses, first: int, width: int, borders: Sequence[int] | None = None
    ) -> FoldedTrees:
        """The tree folded for the tiles of a process's classes.

        Args:
            classes: the classes that this process holds.
            first: the first of their columns.
            width: the classes per tile.
            borders: the processes' first columns in ascending order, then C; None: one process.
        """
        key = (first, classes.size, width, None if borders is None else tuple(borders))
        found = self._kept.pop(key, None)
        if found is None:
            found = self._fold(classes, first, width, borders)
            while len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[key] = found
        return found

    def _fold(
        self, classes: LocalClasses, first: int, width: int, borders: Sequence[int] | None
    ) -> FoldedTrees:
        num_classes, root = self.tree.num_classes, self.tree.num_places - 1
        inner = np.arange(num_classes, root)
        ends = (self._start, self._start + self._num_columns)
        start, stop = (classes.local(torch.from_numpy(end)).numpy() for end in ends)
        is_shared = np.zeros(root + 1, dtype=bool)
        if borders is not None:
            process = np.searchsorted(np.asarray(borders[1:-1]), np.arange(num_classes), "right")
            is_shared = self._below(process, np.minimum) != self._below(process, np.maximum)
            is_shared[root] = False

        here = inner[start[inner] < stop[inner]]
        tile, last = start[here] // width, (stop[here] - 1) // width
        is_inside = (tile == last) & ~is_shared[here]
        inside, tile_of_inside = here[is_inside], tile[is_inside]
        crossing = np.union1d(np.append(np.flatnonzero(is_shared), root), here[~is_inside])
        from_, to = start[crossing], stop[crossing]

        tiles = []
        column = np.arange(first, first + classes.size)
        if classes.order is not None:
            column = first + classes.order.cpu().numpy().astype(np.int64)
        by_tile = inside[np.argsort(tile_of_inside, kind="stable")]
        num_tiles = -(-classes.size // width)
        bounds = np.searchsorted(np.sort(tile_of_inside), np.arange(num_tiles + 1))
        for index in range(num_tiles):
            begin, end = index * width, min((index + 1) * width, classes.size)
            num_here = np.minimum(to, end) - np.maximum(from_, begin)
            numbers = np.flatnonzero(num_here > 0)
            tiles.append(
                self._fold_tile(
                    column[begin:end],
                    by_tile[bounds[index] : bounds[index + 1]],
                    crossing[numbers],
                    numbers,
                    num_here[numbers],
                )
            )
        above = np.searchsorted(crossing, self._parent[crossing[:-1]])
        levels = np.searchsorted(crossing, num_classes + np.asarray(self.tree.level_ptr))
        device = self.tree.device
        return FoldedTrees(
            tuple(tiles),
            width,
            torch.from_numpy(crossing).to(device),
            torch.from_numpy(is_shared[crossing]).to(device),
            torch.from_numpy(np.append(above, len(above))).to(device),
            tuple(levels.tolist()),
        )

    def _fold_tile(
        self,
        columns: Int64,
        inside: Int64,
        crossing: Int64,
        numbers: Int64,
        num_here: Int64,
    ) -> FoldedTree:
        """A tile's tree.

        Args:
            columns: the tile's columns, by position.
            inside, crossing: places of inner nodes; the virtual root is the last of `crossing`.
            numbers: the numbers of the crossing nodes.
            num_here: how many of each crossing node's columns are in the tile.
        """
        root, num_extra = self.tree.num_places - 1, len(crossing)
        inner = np.union1d(inside, crossing)  # children before their parents
        num_classes = len(columns) + num_extra

        def local(places: Int64) -> Int64:
            return num_classes + np.searchsorted(inner, places)

        above_columns, above_inner = self._parent[columns], self._parent[inner[:-1]]
        parent = np.concatenate([local(above_columns), local(crossing), local(above_inner), [-1]])
        child = np.argsort(parent[:-1], kind="stable")
        child_ptr = np.zeros(len(inner) + 1, np.int64)
        np.cumsum(np.bincount(parent[:-1] - num_classes, minlength=len(inner)), out=child_ptr[1:])

        outside = self._num_columns[crossing] - num_here
        above = np.searchsorted(crossing, self._parent[crossing[:-1]])
        own = outside.copy()
        np.subtract.at(own, above, outside[:-1])
        num_columns = np.concatenate([np.ones(len(columns)), own, self._num_columns[inner]])
        level = self._level[inner - self.tree.num_classes]
        level_ptr = [*np.flatnonzero(np.diff(level, prepend=-1)).tolist(), len(inner)]

        device = self.tree.device

        def tensor(values: NDArray[np.generic], dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.from_numpy(values).to(device, dtype)

        tree = TreeTable(
            place=tensor(np.concatenate([local(inside), local(crossing[:-1])])),
            parent=tensor(parent),
            child_ptr=tensor(child_ptr),
            child=tensor(child),
            num_columns=tensor(num_columns),
            level_ptr=tuple(level_ptr),
        )
        place = np.concatenate([columns, np.full(num_extra, root), inner])
        return FoldedTree(
            tree,
            tensor(place, torch.int64),
            tensor(numbers, torch.int64),
            tensor(np.append(above, num_extra - 1), torch.int64),
        )
