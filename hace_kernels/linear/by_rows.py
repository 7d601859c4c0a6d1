"""The loss of a linear layer some rows at a time, with its gradients in the forward.

All logits of R rows are computed, and replaced by their gradient in place. That takes three matrix
products, where tiles of classes take four (columns.py). But the gradient of the weight is a sum of
several products, one per R rows, so this is only for products in float32 and float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..autocast import without_autocast
from ..ops.path_stages import path_resolve
from ..row_paths import Rings
from .batch import Batch
from .columns import refuse_second_derivative, tile_gradients, written
from .tiles import Layer, tile_width

__all__ = ["loss_by_rows", "rows_at_once"]

#: With fewer rows at once the weight is read and its gradient written too often.
MIN_ROWS = 512
ROW_STEP = 128


def rows_at_once(
    batch: Batch, parts: tuple[Tensor | None, ...], num_classes: int, logit_bytes: int
) -> int:
    """For how many rows logits are computed at once; 0 if tiles of classes are better or needed.

    Args:
        batch: the batch of all rows.
        parts: input, weight and bias.
        num_classes: C.
        logit_bytes: the budget for logits.
    """
    head, tensors = batch.head, [part for part in parts if part is not None]
    needs_grad = torch.is_grad_enabled() and any(part.requires_grad for part in tensors)
    is_simple = (
        batch.reduction != "none"
        and head.repeats == 1
        and head.exchange is None
        and head.sweep is None
        and head.sums is None
        and head.on_weight_grad is None
        and head.classes.order is None
    )
    in_one_type = all(part.dtype == head.dtype for part in tensors)
    in_full_precision = head.dtype in (torch.float32, torch.float64)
    if not (needs_grad and is_simple and in_one_type and in_full_precision):
        return 0
    rows = len(head.is_right)
    size = logit_bytes // max(1, num_classes * head.dtype.itemsize)
    if size >= rows:
        return rows
    return size // ROW_STEP * ROW_STEP if size >= MIN_ROWS else 0


def loss_by_rows(
    input: Tensor, weight: Tensor, bias: Tensor | None, batch: Batch, size: int
) -> tuple[Tensor, Tensor]:
    """The reduced loss, float64, and each row's log P of its innermost interval, float64 (B').

    Args:
        input: (B', F).
        weight: (C, F).
        bias: (C), or None.
        batch: the batch of all rows.
        size: R, the rows at a time.
    """
    losses: tuple[Tensor, Tensor] = _Rows.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, batch, size
    )
    return losses


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, batch: Batch, size: int
    ) -> tuple[Tensor, Tensor]:
        head, factor = batch.head, batch.row_factor()
        layer = Layer(weight, bias, None, head.dtype, len(weight))
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_input = torch.empty_like(input) if needs_input else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        rings, buffer = head.rings(), layer.buffer(input[:size])
        losses, log_probs = factor.new_empty(len(factor)), factor.new_empty(len(factor))
        with without_autocast(input.device):
            for rows in _runs(len(input), size):
                x, part = input[rows], replace(head, local=head.local.part(rows))
                of_rows = rings.part(rows)
                z = layer.logits(x, weight, 0, len(weight), buffer)
                for first, tile in _tiles(z):
                    part.measure(tile, first, of_rows)
                paths = head.paths.part(rows)
                resolved = path_resolve(of_rows, paths, eps=head.eps, entropy=head.entropy)
                losses[rows], log_probs[rows] = resolved.loss, resolved.log_prob
                gradient = resolved.gradient.times(factor[rows])
                for first, tile in _tiles(z):
                    part.write(tile, first, gradient)
                if grad_input is not None:
                    torch.mm(z, weight, out=grad_input[rows])
                if grad_weight is not None:
                    grad_weight.addmm_(z.T, x, beta=0 if rows.start == 0 else 1)
                if grad_bias is not None:
                    grad_bias += z.sum(0)
        ctx.save_for_backward(input, weight, bias, factor, *rings)
        ctx.head, ctx.grads = head, (grad_input, grad_weight, grad_bias)
        ctx.set_materialize_grads(False)
        return batch.reduced(losses, None), log_probs

    @staticmethod
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_log_prob: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        input, weight, bias, factor, *rings = ctx.saved_tensors
        refuse_second_derivative()
        grads, ctx.grads = ctx.grads, None  # the first backward gives them away
        if grads is not None and grad_loss is not None and grad_log_prob is None:
            if grad_loss.device.type != "cpu" or grad_loss != 1:
                for grad in grads:
                    if grad is not None:
                        grad *= grad_loss.to(grad.dtype)
            return (*grads, None, None)
        of_rows = None if grad_loss is None else grad_loss * factor
        gradient = tile_gradients(Rings(*rings), ctx.head, of_rows, grad_log_prob, None)
        if gradient is None:
            return None, None, None, None, None

        def write(z: Tensor, first: int) -> None:
            ctx.head.write(z, first, gradient)

        needed = ctx.needs_input_grad[:3]
        return (*written(input, weight, bias, ctx.head, write, needed), None, None)


def _runs(rows: int, size: int) -> Iterator[slice]:
    for first in range(0, rows, max(1, size)):
        yield slice(first, min(first + size, rows))


def _tiles(z: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Views of some columns each, so that temporaries are small on every backend."""
    width = tile_width(len(z), 1, z.element_size())
    for first in range(0, z.shape[1], width):
        yield first, z[:, first : first + width]
