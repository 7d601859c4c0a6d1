"""Launches `pull_kernel`, which the losses on trees and DAGs share with `tree_log_prob`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from ..rows import loss_dtype
from ..schemas import TreeLogLossArguments
from .rows import Results, bits, incoming
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
from .tree_rows import Arrays, Stage, level_bounds
from .tree_sweeps import Mass, Tree

__all__ = ["Mixed", "Rows"]


class Mixed(Protocol):
    """The nodes of a DAG that are not places of its tree, and hand their mass to places."""

    def hand(
        self, rows: range, mass: Tensor, handed: Tensor, scratch: Tensor, sums: Tensor
    ) -> None:
        """Writes to `handed`, and adds mass and loss to the rows' sums."""


@dataclass(frozen=True)
class Rows:
    """Rows of logits with mass on a tree, and where their loss or gradient goes.

    Attributes:
        logits: (B, C), unit stride along a row.
        tree: the tree.
        levels: its level_ptr on the device.
        keep: float64 (P), for mass by place. If None, mass is by node, and its product with log P
            is differentiated.
        node: where `keep` is None, the node of each place.
        grad: (B, C), or None if there is nothing to write.
        row_loss: (B), or None likewise.
        counts: float64 (B), the weight of each row; with `keep`.
        divisor: what `mean` divides the gradient by; None for 1.
        grad_loss: the incoming gradient; None for 1.
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

    @classmethod
    def of_loss(
        cls,
        call: TreeLogLossArguments,
        results: Results,
        tree: Arrays,
        level_ptr: Sequence[int],
        keep: Tensor,
    ) -> Rows:
        """The rows of a loss, with an empty `counts`."""
        logits = call.logits
        return cls(
            logits,
            tree,
            level_bounds(level_ptr, logits.device),
            keep=keep,
            counts=logits.new_empty(len(logits), dtype=torch.float64),
            eps=call.eps,
            **results._asdict(),
        )

    @property
    def scratch_bytes(self) -> int:
        """The bytes per row, without its mass."""
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
        """Computes loss and gradient of some rows.

        Args:
            mass: that of these rows where there is `keep`; otherwise that of all rows.
            mixed: hands mass to places once the upward sums are known.
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
