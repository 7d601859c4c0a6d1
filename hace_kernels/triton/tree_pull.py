"""Launches what `tree_log_loss` and the backward of `tree_log_prob` share: `pull_kernel`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Protocol

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

__all__ = ["Mixed", "Rows"]


class Mixed(Protocol):
    """The nodes of a DAG that are no place of its tree, and hand their mass to places."""

    def hand(
        self, rows: range, mass: Tensor, handed: Tensor, scratch: Tensor, sums: Tensor
    ) -> None:
        """Fills `handed` in; adds mass and loss to the rows' sums."""


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
    def _upwards(self) -> list[Stage]:
        stages = [Stage(UP_COLUMNS, True), Stage(UP_LEVELS, False)]
        return [*stages, Stage(FADE, True)] if self.eps and self.grad is not None else stages

    @property
    def _downwards(self) -> list[Stage]:
        stages = [Stage(DOWN_LEVELS, False), Stage(DOWN_COLUMNS, True)]
        return stages if self.row_loss is None else [*stages, Stage(FINISH, False)]

    def pull(self, rows: range, mass: Tensor, mixed: Mixed | None = None) -> None:
        """Loss and gradient of some rows; `mass` is theirs with `keep`, and else all rows'.

        `mixed` makes the mass that is handed to places when the sums upwards are known.
        """
        tree, logits, shape = self.tree, self.logits, self.tree.shape
        work = loss_dtype(logits.dtype)
        scratch = logits.new_empty((len(rows), 3, tree.num_inner), dtype=work)
        sums = logits.new_empty((len(rows), self._num_sums), dtype=torch.float64)
        batch = PulledRows(
            logits, self.grad, self.row_loss, self.counts, self.divisor, **incoming(self.grad_loss)
        )
        if mixed is None:
            at_places = Mass(mass, self.keep, self.node)
            passes = [[*self._upwards, *self._downwards]]
        else:
            handed = logits.new_empty((len(rows), tree.num_places), dtype=work)
            at_places = Mass(mass, self.keep, self.node, handed)
            passes = [self._upwards, self._downwards]
        launches = [shape.launches(stages) for stages in passes]
        for stages, programs in chain.from_iterable(launches):
            if mixed is not None and stages & DOWN_LEVELS:
                mixed.hand(rows, mass, handed, scratch, sums)
            pull_kernel[(len(rows) * programs,)](
                batch, at_places, scratch, sums, Tree(*tree, level_ptr=self.levels), mass.stride(0),
                rows.start, shape.parts, programs, logits.stride(0), tree.num_classes,
                tree.num_inner, len(self.levels) - 1, bits(self.eps), shape.tile, STAGES=stages,
                **shape.options,
            )  # fmt: skip
