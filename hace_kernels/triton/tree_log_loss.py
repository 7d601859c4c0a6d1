"""`tree_log_loss` on a GPU: scratch memory, launches, and the op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..reference import loss_dtype
from .rows import MEAN, bits, reduced, total_weight
from .tree_log_loss_kernel import put_kernel, target_kernel
from .tree_pull import Rows
from .tree_rows import Arrays, chunks_of_rows, level_bounds
from .tree_sum import inner_sums

__all__ = ["OPS", "tree_log_loss", "tree_log_loss_backward"]

# The native op's.
_ARGUMENTS = (
    "Tensor logits, Tensor? mass, Tensor? index, Tensor? index_weight, Tensor[] tree, "
    "int[] level_ptr, Tensor[] targets, Tensor? weight, Tensor? spread, float row_spread, "
    "Tensor[] soft_labels, int ignore_index, int reduction, float eps"
)

_TARGETS_AT_ONCE = 128
_PLACES_AT_ONCE = 1024


@dataclass(frozen=True)
class _Targets:
    """The op's arguments but the logits, as they come."""

    mass: Tensor | None
    index: Tensor | None
    index_weight: Tensor | None
    tree: list[Tensor]
    level_ptr: list[int]
    targets: list[Tensor]
    weight: Tensor | None
    spread: Tensor | None
    row_spread: float
    soft_labels: list[Tensor]
    ignore_index: int
    reduction: int
    eps: float

    def run(
        self,
        logits: Tensor,
        row_loss: Tensor | None,
        grad: Tensor | None,
        grad_loss: Tensor | None = None,
    ) -> Tensor | None:
        """Fills in what is given, and returns what `mean` divides by."""
        num_rows = logits.shape[0]
        divisor = self._divisor(logits) if self.reduction == MEAN else None
        batch = Rows(
            logits,
            Arrays(*self.tree),
            level_bounds(self.level_ptr, logits.device),
            keep=self.targets[1],
            grad=grad,
            row_loss=row_loss,
            counts=logits.new_empty(num_rows, dtype=torch.float64),
            divisor=None if grad is None else divisor,
            grad_loss=grad_loss,
            eps=self.eps,
        )
        put = _Put(self, batch)
        row_bytes = put.scratch_bytes + batch.scratch_bytes
        for rows in chunks_of_rows(num_rows, row_bytes, logits.device):
            batch.pull(rows, put(rows))
        return divisor

    def _divisor(self, logits: Tensor) -> Tensor:
        if self.index is not None and self.index_weight is None:
            num_targets = self.targets[0].shape[0]
            return total_weight(self.index[:, 0], self.weight, num_targets, self.ignore_index)
        return torch.full((), len(logits), dtype=torch.float64, device=logits.device)


class _Put:
    """Puts rows' targets on places, and what they count for in `batch.counts`."""

    def __init__(self, of: _Targets, batch: Rows) -> None:
        self.of, self.batch = of, batch
        self.num_indices = 0 if of.index is None else of.index.shape[1]
        self.spreads = of.spread is not None or of.row_spread != 0 or bool(of.soft_labels)
        self.soft: Sequence[Tensor | None] = (None,) * 4
        if of.soft_labels:
            log_similarity, is_class, apart = of.soft_labels
            classes_below = inner_sums(is_class, of.tree, of.level_ptr)
            self.soft = (log_similarity, is_class, apart, classes_below)
        self.target_ptr, self.target_order = None, None
        if of.mass is not None:
            self.target_ptr, self.target_order = _targets_of_places(of.targets[0], batch.tree)

    @property
    def scratch_bytes(self) -> int:
        """Of a row."""
        work = loss_dtype(self.batch.logits.dtype).itemsize
        tree = self.batch.tree
        rings = tree.num_inner if self.of.soft_labels else 0
        return (tree.num_places + rings) * work + 8 + 20 * self.num_indices

    def __call__(self, rows: range) -> Tensor:
        """The mass on places, (rows, P)."""
        of, batch, tree = self.of, self.batch, self.batch.tree
        place, _, unit, share = of.targets
        new = batch.logits.new_empty
        count, work = len(rows), loss_dtype(batch.logits.dtype)
        by_index = (count, self.num_indices)
        own_place, own_mass, reached_own = None, None, None
        if of.index is not None:
            own_place = new(by_index, dtype=torch.int32)
            own_mass, reached_own = new(2, *by_index, dtype=torch.float64)
        rings = bool(of.soft_labels)
        alpha = new(
            (count, tree.num_inner) if rings else count, dtype=work if rings else torch.float64
        )
        mass_step = 0 if of.mass is None else of.mass.stride(0)
        target_kernel[(count,)](
            of.mass, of.index, of.index_weight, batch.counts, alpha, own_place, own_mass,
            reached_own, place, unit, share, of.spread, *self.soft, tree.parent, batch.levels,
            rows.start, mass_step, self.num_indices, of.ignore_index, place.shape[0],
            tree.num_classes, tree.num_inner, len(batch.levels) - 1, bits(of.row_spread),
            BLOCK=_TARGETS_AT_ONCE,
        )  # fmt: skip
        reached = new((count, tree.num_places), dtype=work)
        programs = tree.shape.parts
        put_kernel[(count * programs,)](
            reached, of.mass, alpha, own_place, reached_own, unit, share, self.target_ptr,
            self.target_order, tree.parent, rows.start, programs, mass_step, self.num_indices,
            tree.num_places, tree.num_classes, tree.num_inner, SPREADS=self.spreads, RINGS=rings,
            BLOCK=_PLACES_AT_ONCE,
        )  # fmt: skip
        return reached


def _targets_of_places(place: Tensor, tree: Arrays) -> tuple[Tensor, Tensor]:
    """CSR arrays of the targets at each place: masses there are added in one order."""
    at, order = place.sort(stable=True)
    places = torch.arange(tree.num_places + 1, dtype=at.dtype, device=at.device)
    return torch.searchsorted(at, places, out_int32=True), order


def tree_log_loss(
    logits: Tensor,
    mass: Tensor | None,
    index: Tensor | None,
    index_weight: Tensor | None,
    tree: list[Tensor],
    level_ptr: list[int],
    targets: list[Tensor],
    weight: Tensor | None,
    spread: Tensor | None,
    row_spread: float,
    soft_labels: list[Tensor],
    ignore_index: int,
    reduction: int,
    eps: float,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient for an incoming one of 1 unless it was not asked for."""
    given = _Targets(
        mass, index, index_weight, tree, level_ptr, targets, weight, spread, row_spread,
        soft_labels, ignore_index, reduction, eps,
    )  # fmt: skip
    row_loss = logits.new_empty(logits.shape[0], dtype=loss_dtype(logits.dtype))
    grad = logits.new_empty(logits.shape) if with_grad else None
    divisor = given.run(logits, row_loss, grad)
    return reduced(row_loss, divisor, reduction), logits.new_empty(0) if grad is None else grad


def tree_log_loss_backward(
    grad_loss: Tensor,
    logits: Tensor,
    mass: Tensor | None,
    index: Tensor | None,
    index_weight: Tensor | None,
    tree: list[Tensor],
    level_ptr: list[int],
    targets: list[Tensor],
    weight: Tensor | None,
    spread: Tensor | None,
    row_spread: float,
    soft_labels: list[Tensor],
    ignore_index: int,
    reduction: int,
    eps: float,
) -> Tensor:
    """The gradient for any incoming one, made anew from the logits."""
    given = _Targets(
        mass, index, index_weight, tree, level_ptr, targets, weight, spread, row_spread,
        soft_labels, ignore_index, reduction, eps,
    )  # fmt: skip
    grad = logits.new_empty(logits.shape)
    given.run(logits, None, grad, grad_loss)
    return grad


#: Ops by name, with their schemas.
OPS = {
    "triton_tree_log_loss": (
        f"({_ARGUMENTS}, bool with_grad) -> (Tensor loss, Tensor grad_logits)",
        tree_log_loss,
    ),
    "triton_tree_log_loss_backward": (
        f"(Tensor grad_loss, {_ARGUMENTS}) -> Tensor",
        tree_log_loss_backward,
    ),
}
