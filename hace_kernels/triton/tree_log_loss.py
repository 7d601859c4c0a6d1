"""`tree_log_loss` on a GPU: scratch memory, launches, and the op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..rows import loss_dtype
from ..schemas import TreeLogLossArguments
from ..target_table import TargetTable
from .rows import MEAN, bits, reduced, total_weight
from .tree_log_loss_kernel import (
    Given,
    Own,
    PutTable,
    SoftLabels,
    put_kernel,
    target_kernel,
)
from .tree_pull import Rows
from .tree_rows import Arrays, chunks_of_rows, level_bounds
from .tree_sum import inner_sums

__all__ = ["OPS", "tree_log_loss", "tree_log_loss_backward"]

_TARGETS_AT_ONCE = 128
_PLACES_AT_ONCE = 1024


def _run(
    call: TreeLogLossArguments,
    row_loss: Tensor | None,
    grad: Tensor | None,
    grad_loss: Tensor | None = None,
) -> Tensor | None:
    """Fills in what is given, and returns what `mean` divides by."""
    logits, table = call.logits, TargetTable.of_tensors(call.table, call.row_spread)
    num_rows = logits.shape[0]
    divisor = _divisor(call, table) if call.reduction == MEAN else None
    batch = Rows(
        logits,
        Arrays(*call.tree),
        level_bounds(call.level_ptr, logits.device),
        keep=table.keep,
        grad=grad,
        row_loss=row_loss,
        counts=logits.new_empty(num_rows, dtype=torch.float64),
        divisor=None if grad is None else divisor,
        grad_loss=grad_loss,
        eps=call.eps,
    )
    put = _Put(call, table, batch)
    row_bytes = put.scratch_bytes + batch.scratch_bytes
    for rows in chunks_of_rows(num_rows, row_bytes, logits.device):
        batch.pull(rows, put(rows))
    return divisor


def _divisor(call: TreeLogLossArguments, table: TargetTable) -> Tensor:
    """What `mean` divides by."""
    if call.indices is not None and call.index_weight is None:
        index = call.indices[:, 0]
        return total_weight(index, table.weight, table.num_targets, call.ignore_index)
    logits = call.logits
    return torch.full((), len(logits), dtype=torch.float64, device=logits.device)


class _Put:
    """Puts rows' targets on places, and what they count for in `batch.counts`."""

    def __init__(self, of: TreeLogLossArguments, table: TargetTable, batch: Rows) -> None:
        self.of, self.table, self.batch = of, table, batch
        self.num_indices = 0 if of.indices is None else of.indices.shape[1]
        soft_labels = table.soft_labels
        self.spreads = table.spread is not None or table.row_spread != 0 or soft_labels is not None
        self.soft: SoftLabels | None = None
        if soft_labels is not None:
            classes_below = inner_sums(soft_labels.is_class, of.tree, of.level_ptr)
            self.soft = SoftLabels(*soft_labels, classes_below)
        self.target_ptr, self.target_order = None, None
        if of.mass is not None:
            self.target_ptr, self.target_order = _targets_of_places(table.place, batch.tree)

    @property
    def scratch_bytes(self) -> int:
        """Per row."""
        work = loss_dtype(self.batch.logits.dtype).itemsize
        tree = self.batch.tree
        rings = tree.num_inner if self.table.soft_labels else 0
        return (tree.num_places + rings) * work + 8 + 20 * self.num_indices

    def __call__(self, rows: range) -> Tensor:
        """The mass on places, (rows, P)."""
        of, table, batch, tree = self.of, self.table, self.batch, self.batch.tree
        tensors = PutTable(table.place, table.unit, table.share, table.spread)
        new = batch.logits.new_empty
        count, work = len(rows), loss_dtype(batch.logits.dtype)
        by_index = (count, self.num_indices)
        own = Own(None, None, None)
        if of.indices is not None:
            places, masses = (
                new(by_index, dtype=torch.int32),
                new(2, *by_index, dtype=torch.float64),
            )
            own = Own(places, *masses)
        rings = table.soft_labels is not None
        alpha = new(
            (count, tree.num_inner) if rings else count, dtype=work if rings else torch.float64
        )
        mass_step = 0 if of.mass is None else of.mass.stride(0)
        target_kernel[(count,)](
            Given(of.mass, of.indices, of.index_weight), own, batch.counts, alpha, tensors,
            self.soft, tree.parent, batch.levels, rows.start, mass_step, self.num_indices,
            of.ignore_index, table.num_targets, tree.num_classes, tree.num_inner,
            len(batch.levels) - 1, bits(table.row_spread), BLOCK=_TARGETS_AT_ONCE,
        )  # fmt: skip
        reached = new((count, tree.num_places), dtype=work)
        programs = tree.shape.parts
        put_kernel[(count * programs,)](
            reached, of.mass, alpha, own, tensors, self.target_ptr, self.target_order,
            tree.parent, rows.start, programs, mass_step, self.num_indices, tree.num_places,
            tree.num_classes, tree.num_inner, SPREADS=self.spreads, RINGS=rings,
            BLOCK=_PLACES_AT_ONCE,
        )  # fmt: skip
        return reached


def _targets_of_places(place: Tensor, tree: Arrays) -> tuple[Tensor, Tensor]:
    """CSR arrays of the targets at each place: masses there are added in one order."""
    at, order = place.sort(stable=True)
    places = torch.arange(tree.num_places + 1, dtype=at.dtype, device=at.device)
    return torch.searchsorted(at, places, out_int32=True), order


def tree_log_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient for an incoming one of 1 unless it was not asked for."""
    call, with_grad = TreeLogLossArguments(*arguments[:-1]), arguments[-1]
    logits = call.logits
    row_loss = logits.new_empty(logits.shape[0], dtype=loss_dtype(logits.dtype))
    grad = logits.new_empty(logits.shape) if with_grad else None
    divisor = _run(call, row_loss, grad)
    loss = reduced(row_loss, divisor, call.reduction)
    return loss, logits.new_empty(0) if grad is None else grad


def tree_log_loss_backward(grad_loss: Tensor, *arguments: Any) -> Tensor:
    """The gradient for any incoming one, made anew from the logits."""
    call = TreeLogLossArguments(*arguments)
    grad = call.logits.new_empty(call.logits.shape)
    _run(call, None, grad, grad_loss)
    return grad


#: Ops by name.
OPS = {"tree_log_loss": tree_log_loss, "tree_log_loss_backward": tree_log_loss_backward}
