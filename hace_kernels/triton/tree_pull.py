"""Launches what `tree_log_loss` and the backward of `tree_log_prob` share: `pull_kernel`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rows import loss_dtype
from .rows import bits, incoming
from .tree_pull_kernel import (
    DOWN_COLUMNS,
    DOWN_LEVELS,
    FADE,
    FINISH,
    HEAD,
    UP_COLUMNS,
    UP_LEVELS,
    PulledRows,
    pull_kernel,
)
from .tree_rows import Arrays, Stage
from .tree_sweeps import Mass, Tree

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """Rows of logits with mass on a tree, and where their loss or gradient goes.

    Attributes:
        logits: (B, C), unit stride along a row.
        tree: the tree, and `levels` its level_ptr on the device.
        keep: float64 (P); None for mass by node, whose product with log P is differentiated.
        node: where `keep` is None, the node of each place.
        grad: (B, C) or None.
        row_loss: (B) or None.
        counts: float64 (B), what each row counts for, with `keep`.
        divisor: what `mean` divides by, for the gradient, or None.
        grad_loss: the incoming gradient, or None for 1.
        eps: inside the logarithm.
    """

    logits: Tensor
    tree: Arrays
    levels: Tensor
    keep: Tensor | None = None
    node: Tensor | None = None
    grad: Tensor | None = None
    row_loss: Tensor | None = None
    counts: Tensor | None = None
    divisor: Tensor | None = None
    grad_loss: Tensor | None = None
    eps: float = 0.0

    @property
    def scratch_bytes(self) -> int:
        """Per row, without its mass."""
        work = loss_dtype(self.logits.dtype)
        return 3 * self.tree.num_inner * work.itemsize + 8 * self._num_sums

    @property
    def _num_sums(self) -> int:
        return HEAD + 3 * self.tree.shape.parts

    @property
    def _stages(self) -> list[Stage]:
        stages = [Stage(UP_COLUMNS, True), Stage(UP_LEVELS, False)]
        if self.eps and self.grad is not None:
            stages.append(Stage(FADE, True))
        stages += [Stage(DOWN_LEVELS, False), Stage(DOWN_COLUMNS, True)]
        if self.row_loss is not None:
            stages.append(Stage(FINISH, False))
        return stages

    def pull(self, rows: range, mass: Tensor) -> None:
        """Loss and gradient of some rows; `mass` is theirs with `keep`, and else all rows'."""
        tree, logits, shape = self.tree, self.logits, self.tree.shape
        work = loss_dtype(logits.dtype)
        scratch = logits.new_empty((len(rows), 3, tree.num_inner), dtype=work)
        sums = logits.new_empty((len(rows), self._num_sums), dtype=torch.float64)
        batch = PulledRows(
            logits, self.grad, self.row_loss, self.counts, self.divisor, **incoming(self.grad_loss)
        )
        at_places = Mass(mass, self.keep, self.node)
        for stages, programs in shape.launches(self._stages):
            pull_kernel[(len(rows) * programs,)](
                batch, at_places, scratch, sums, Tree(*tree, level_ptr=self.levels), mass.stride(0),
                rows.start, shape.parts, programs, logits.stride(0), tree.num_classes,
                tree.num_inner, len(self.levels) - 1, bits(self.eps), shape.tile, STAGES=stages,
                **shape.options,
            )  # fmt: skip
