"""Label smoothing by tiles: the mass that every class gets, the same in every row."""

from __future__ import annotations

import torch
from torch import Tensor

from ..target_table import Risen, TargetTable
from ..widest import widened
from .folded_tree import FoldedTree, FoldedTrees
from .node_sweep import NodeSweep

__all__ = ["SmoothingSweep"]


class SmoothingSweep(NodeSweep):
    """A sweep in which q is the same vector in all rows.

    Args:
        trees, rows, dtype, backend: as in `NodeSweep`.
        kept: float64 (P), what each of the tree's places keeps of 1 on every class.
    """

    def __init__(
        self, trees: FoldedTrees, kept: Tensor, rows: int, dtype: torch.dtype, backend: str
    ) -> None:
        super().__init__(trees, rows, dtype, backend)
        # In the precision in which it is used, so that a constant added to a row's logits cancels.
        self.kept = widened(kept.to(self.dtype))

    def add_tile(
        self, wide: Tensor, top: Tensor, log_prob: Tensor, whole: Tensor, first: int
    ) -> None:
        folded = self.tree_at(first)
        kept = self.kept[folded.place].to(wide.dtype)
        self.add_done(wide[:, : folded.width], kept[: folded.width], top)
        self.add_done(log_prob, kept[folded.inside], whole)

    def add_crossing(self, which: Tensor) -> None:
        kept = self.kept[self.trees.crossing[which]]
        self.add_done(self.log_sum[:, which], kept, torch.zeros_like(self.weighted))

    def total(self) -> Tensor:
        return self.kept.sum()

    def target_of(self, folded: FoldedTree, first: int, rows: int) -> tuple[Tensor, TargetTable]:
        kept = self.kept[folded.place]
        kept[folded.tree.num_classes - 1] = self.kept.sum() - kept.sum()
        table = TargetTable(
            place=folded.tree.place.new_zeros(1),
            keep=torch.ones_like(kept),
            unit=kept,
            share=kept.new_zeros(1),
            weight=None,
            spread=None,
            row_spread=1.0,
            soft_labels=None,
            risen=Risen(kept.float(), kept, None),
        )
        return folded.crossing.new_zeros(rows), table
