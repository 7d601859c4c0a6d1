"""Targets that put a different mass on the classes of each row, by tiles.

These are probabilities and soft labels. The nodes inside a tile keep their shares of its mass, and
the rest reaches the nodes that cross its border. What these get from all tiles rises among them
once it is known. None of it depends on the logits.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ..ops.tree_log_loss import tree_log_loss
from ..target_table import TargetTable
from ..tree_table import TreeTable
from ..widest import widened
from .folded_tree import FoldedTree, FoldedTrees
from .node_sweep import NodeSweep

__all__ = ["MassSweep", "Masses"]


class Masses(Protocol):
    """The mass that the rows' targets put on classes."""

    def fill(self, mass: Tensor, columns: Tensor, first: int) -> None:
        """Writes the mass (B, T) of the classes in some columns, int64 (T).

        These are the classes from local position `first` on.
        """


class MassSweep(NodeSweep):
    """A sweep in which each row has masses of its own.

    Args:
        trees, rows, dtype, backend: as in `NodeSweep`.
        tree: the whole tree.
        keep: float64 (P), the share of the mass reaching a place that stays there.
        masses: the mass of the rows.
    """

    needs_shift = False

    def __init__(
        self,
        trees: FoldedTrees,
        tree: TreeTable,
        keep: Tensor,
        masses: Masses,
        rows: int,
        dtype: torch.dtype,
        backend: str,
    ) -> None:
        super().__init__(trees, rows, dtype, backend)
        # Where a node has every class, its probability is 1 whatever it keeps.
        self.keep = torch.where(tree.num_columns == tree.num_classes, 0.0, keep)
        self.masses = masses
        self._sums: dict[int, tuple[Tensor, Tensor]] = {}  # of each tile's mass
        self._kept = torch.zeros_like(self.weighted)  # by the nodes that are done
        self._reached = torch.zeros_like(self.log_sum)  # what reaches crossing nodes

    # ---- the mass of a tile ----

    def _of_tile(self, folded: FoldedTree, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """A tile's mass, how much of it stays inside (B), and what reaches crossing nodes (B, E).

        The mass is (B, T + E), not yet set for the last E columns.
        """
        width, rows = folded.width, len(self.log_sum)
        mass = torch.empty(rows, folded.tree.num_classes, dtype=self.dtype, device=self.keep.device)
        self.masses.fill(mass[:, :width], folded.place[:width], first)
        if first not in self._sums:
            handed, reached = self._handed(folded)
            shares = handed.new_zeros(width, 1 + len(folded.crossing))
            shares[:, 0] = 1 - handed
            shares[torch.arange(width, device=handed.device), 1 + reached] = handed
            sums = widened(mass[:, :width] @ shares.to(self.dtype))
            self._sums[first] = sums[:, 0], sums[:, 1:]
        return mass, *self._sums[first]

    def _handed(self, folded: FoldedTree) -> tuple[Tensor, Tensor]:
        """How much of 1 on each class reaches a crossing node, float64 (T), and which of the E."""
        tree, width = folded.tree, folded.width
        number = torch.full_like(folded.place, -1)
        number[folded.places_of_crossing] = torch.arange(len(folded.crossing), device=number.device)
        handed = torch.where(number >= 0, 1.0, 1 - self.keep[folded.place])
        parent = tree.parent.long()
        levels = [tree.num_classes + bound for bound in tree.level_ptr]
        downwards = [*pairwise(levels)][-2::-1]
        for begin, end in [*downwards, (0, width)]:
            here, above = slice(begin, end), parent[begin:end]
            inherits = number[here] < 0
            handed[here] = torch.where(inherits, handed[here] * handed[above], handed[here])
            number[here] = torch.where(inherits, number[above], number[here])
        return handed[:width], number[:width]

    def _table(self, folded: FoldedTree, keep: Tensor) -> TargetTable:
        """A table in which the targets are the columns."""
        num_columns = folded.tree.num_classes
        return TargetTable(
            place=torch.arange(num_columns, dtype=torch.int32, device=keep.device),
            keep=keep,
            unit=torch.zeros_like(keep),
            share=torch.ones_like(keep[:num_columns]),
            weight=None,
            spread=None,
            row_spread=0.0,
            soft_labels=None,
        )

    # ---- measure ----

    def add_tile(
        self, wide: Tensor, top: Tensor, log_prob: Tensor, whole: Tensor, first: int
    ) -> None:
        folded = self.tree_at(first)
        mass, stays, arriving = self._of_tile(folded, first)
        mass[:, folded.width :] = 0
        keep = self.keep[folded.place]
        keep[folded.places_of_crossing] = 0
        table = self._table(folded, keep)
        loss = tree_log_loss(wide, mass, folded.tree, table, reduction="none", backend=self.backend)
        is_dead = loss == torch.inf
        self.dead = self.dead + is_dead
        loss = widened(torch.where(is_dead, 0.0, loss))
        self.weighted = self.weighted + stays * whole - loss
        self._kept = self._kept + stays
        self._reached.index_add_(1, folded.crossing, arriving)

    # ---- resolve ----

    def shared_sums(self) -> Tensor:
        reached = self._reached[:, self.trees.is_shared]
        return torch.cat([super().shared_sums(), self._kept[:, None], reached], 1)

    def take_shared_sums(self, sums: Tensor) -> None:
        super().take_shared_sums(sums[:, :2])
        self._kept = sums[:, 2]
        self._reached[:, self.trees.is_shared] = sums[:, 3:]

    def add_crossing(self, which: Tensor) -> None:
        keep = self.keep[self.trees.crossing]
        is_here = torch.zeros(len(keep), dtype=torch.bool, device=keep.device)
        is_here[which] = True
        for first, last in pairwise(self.trees.level_ptr):
            here = first + is_here[first:last].nonzero()[:, 0]
            handed = (1 - keep[here]) * self._reached[:, here]
            self._reached.index_add_(1, self.trees.above[here], handed)
        kept = keep[which] * self._reached[:, which]
        self.add_done(self.log_sum[:, which], kept, torch.zeros_like(self.weighted))
        self._kept = self._kept + kept.sum(1)

    def total(self) -> Tensor:
        return self._kept

    # ---- write ----

    def target_of(self, folded: FoldedTree, first: int, rows: int) -> tuple[Tensor, TargetTable]:
        mass, stays, arriving = self._of_tile(folded, first)
        # What has reached a crossing node from other tiles comes from the column for these.
        reached, keep = self._reached[:, folded.crossing], self.keep[folded.place]
        of_crossing = keep[folded.places_of_crossing]
        handed = (1 - of_crossing[:-1]) * reached[:, :-1]
        elsewhere = (reached - arriving).index_add(1, folded.above[:-1], handed, alpha=-1)
        elsewhere[:, -1] = self._kept - stays - reached[:, :-1] @ of_crossing[:-1]
        num_columns = folded.tree.num_classes
        keep[folded.width : num_columns - 1] = 0
        keep[num_columns - 1] = 1  # of all nodes outside
        mass[:, folded.width :] = elsewhere
        return mass, self._table(folded, keep)
