"""`tree_log_loss` on a GPU: scratch memory, launches, and the op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..rows import loss_dtype
from ..schemas import TreeLogLossArguments
from ..target_table import TargetTable
from .rows import MEAN, reduced
from .tree_pull import Rows
from .tree_rows import Arrays, chunks_of_rows, level_bounds
from .tree_targets import Put, divisor_of

__all__ = ["OPS", "tree_log_loss", "tree_log_loss_backward"]


def _run(
    call: TreeLogLossArguments,
    row_loss: Tensor | None,
    grad: Tensor | None,
    grad_loss: Tensor | None = None,
) -> Tensor | None:
    """Fills in what is given, and returns what `mean` divides by."""
    logits, table = call.logits, TargetTable.of_tensors(call.table, call.row_spread)
    num_rows = logits.shape[0]
    divisor = divisor_of(call, table) if call.reduction == MEAN else None
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
    put = Put(call, table, batch, batch.tree.num_places)
    row_bytes = put.scratch_bytes + batch.scratch_bytes
    for rows in chunks_of_rows(num_rows, row_bytes, logits.device):
        batch.pull(rows, put(rows))
    return divisor


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
