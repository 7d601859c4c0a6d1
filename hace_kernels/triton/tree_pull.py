"""Launches `pull_kernel`, which the losses on trees and DAGs share with `tree_log_prob`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from ..rows import loss_dtype
from ..schemas import TreeLogLossArguments
from ..tree_table import TreeTable
from .dag_log_loss_kernel import mixed_kernel
from .mixed_nodes_kernel import MixedNodes
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
    Scratch,
    pull_kernel,
)
from .tree_rows import Shape, Stage, pointers
from .tree_sweeps import Mass

__all__ = ["Mixed", "Rows"]


@dataclass(frozen=True)
class Mixed:
    """The nodes of a DAG that are not places of its tree, and hand their mass to places.

    Attributes:
        nodes: as an argument of kernels.
        count: X.
        node: int32 (X), the nodes by their ids, for mass by node. Mass by place has theirs after
            the places'.
    """

    nodes: MixedNodes
    count: int
    node: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """Rows of logits with mass on a tree, and where their loss or gradient goes.

    Attributes:
        logits: (B, C), unit stride along a row.
        tree: the tree.
        mixed: the nodes beside it, or None.
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
    tree: TreeTable
    mixed: Mixed | None = None
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
        tree: TreeTable,
        keep: Tensor,
        mixed: Mixed | None = None,
    ) -> Rows:
        """The rows of a loss, with an empty `counts`."""
        counts = call.logits.new_empty(len(call.logits), dtype=torch.float64)
        return cls(call.logits, tree, mixed, keep, counts=counts, eps=call.eps, **results._asdict())

    @property
    def shape(self) -> Shape:
        """How the tree is divided among programs."""
        return Shape.of(self.tree)

    @property
    def scratch_bytes(self) -> int:
        """The bytes per row, without the mass of places."""
        numbers = 3 * self.tree.num_inner
        if self.mixed is not None:
            numbers += self.tree.num_places + 3 * self.mixed.count
        return numbers * loss_dtype(self.logits.dtype).itemsize + 8 * self._num_sums

    @property
    def _num_sums(self) -> int:
        return HEAD + 3 * self.shape.parts

    @property
    def _upwards(self) -> list[Stage]:
        stages = [Stage(UP_COLUMNS, True), Stage(UP_LEVELS, False)]
        return [*stages, Stage(FADE, True)] if self.eps and self.grad is not None else stages

    @property
    def _downwards(self) -> list[Stage]:
        stages = [Stage(DOWN_LEVELS, False), Stage(DOWN_COLUMNS, True)]
        return stages if self.row_loss is None else [*stages, Stage(FINISH, False)]

    def pull(self, rows: range, mass: Tensor) -> None:
        """Computes loss and gradient of some rows.

        Args:
            mass: that of these rows where there is `keep`; otherwise that of all rows.
        """
        tree, logits, shape, mixed = self.tree, self.logits, self.shape, self.mixed
        work = loss_dtype(logits.dtype)
        pulled = PulledRows(
            logits, self.grad, self.row_loss, self.counts, self.divisor, bits(self.eps),
            **incoming(self.grad_loss),
        )  # fmt: skip
        scratch = Scratch(
            logits.new_empty((len(rows), 3, tree.num_inner), dtype=work),
            logits.new_empty((len(rows), self._num_sums), dtype=torch.float64),
        )
        on_places = Mass(mass, self.keep, self.node)
        passes = [[*self._upwards, *self._downwards]]
        if mixed is not None:
            # Mixed nodes hand their mass to places once the upward sums are known.
            scratch = scratch._replace(
                mixed=logits.new_empty((len(rows), 2, mixed.count), dtype=work)
            )
            handed = logits.new_empty((len(rows), tree.num_places), dtype=work)
            on_places = on_places._replace(handed=handed)
            passes = [self._upwards, self._downwards]
        for stages, programs in chain.from_iterable(map(shape.launches, passes)):
            if mixed is not None and stages & DOWN_LEVELS:
                own = mass
                if mixed.node is not None:
                    own = mass[rows.start : rows.stop].index_select(1, mixed.node)
                mixed_kernel[(len(rows),)](
                    pulled, on_places._replace(at=own), scratch, mixed.nodes, rows.start,
                    logits.stride(0), own.stride(0), tree.num_classes, tree.num_inner, mixed.count,
                    shape.mixed_tile, **shape.mixed_options,
                )  # fmt: skip
            pull_kernel[(len(rows), programs)](
                pulled, on_places, scratch, pointers(tree), rows.start, logits.stride(0),
                mass.stride(0), tree.num_classes, tree.num_inner, shape.tile, STAGES=stages,
                **shape.options,
            )  # fmt: skip
