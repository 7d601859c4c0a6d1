"""Targets that are spread over a tree, in the form that losses by tiles of classes take."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..target_table import TargetTable
from .folded_tree import TreeOfClasses

__all__ = ["Spread"]


@dataclass(frozen=True)
class Spread:
    """How targets are spread: label smoothing, soft labels, probabilities.

    Attributes:
        tree: the tree of the classes.
        table: the target table, including class weights. If targets are probabilities, the place of
            each must be a column.
    """

    tree: TreeOfClasses
    table: TargetTable

    @property
    def everywhere(self) -> Tensor:
        """What 1 on each target puts on every class besides, float64 (T)."""
        spread = self.table.share.new_full(self.table.share.shape, self.table.row_spread)
        return spread if self.table.spread is None else spread + self.table.spread
