"""The loss of a linear layer by tiles of classes: its logits are never whole.

Forward: each tile's logits are made, measured and forgotten. Backward: they are made again, turned
into their gradient in place, and multiplied into the gradients of the input and of the tile's
weights. That is four matrix products where whole logits take three, and memory for B · T numbers.
Each weight's gradient is the product of one tile, rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..ops.path_stages import path_measure, path_resolve, path_write
from ..reference.path_stages import RingGradient
from ..reference.rows import loss_dtype
from ..row_paths import Rings, RowPaths, empty_rings
from .tiles import Layer, tile_width

__all__ = ["Exchange", "Head", "linear_row_losses"]


class Exchange(Protocol):
    """Where every process holds some of the classes: the two sums over all of them, in place."""

    def rings(self, rings: Rings) -> None:
        """From this process's classes to all."""

    def grad_input(self, grad: Tensor) -> None:
        """From this process's part of the input's gradient to the whole."""


@dataclass(frozen=True)
class Head:
    """What a linear layer's loss is made of beside the layer.

    Attributes:
        paths: of the rows, in class positions of all classes.
        local: the same in positions of the layer's own classes, where it holds only some of them.
        order: int32 (C), class position → row of the layer, or None where it is the identity.
        eps, entropy: as in `path_log_loss`.
        dtype: of the matrix products.
        backend: of the stages.
        exchange: with other processes, which hold other classes; or None.
    """

    paths: RowPaths
    local: RowPaths
    order: Tensor | None
    eps: float
    entropy: float
    dtype: torch.dtype
    backend: str
    exchange: Exchange | None = None


def linear_row_losses(
    input: Tensor, weight: Tensor, bias: Tensor | None, head: Head
) -> tuple[Tensor, Tensor]:
    """Each row's loss, unweighted, and log P of its innermost interval; both float64 (B).

    Args:
        input: (B, F).
        weight: (C, F).
        bias: (C), or None.
        head: the rest.
    """
    losses: tuple[Tensor, Tensor] = _Columns.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, head
    )
    return losses


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, head: Head
    ) -> tuple[Tensor, Tensor]:
        rings = _measured(input, weight, bias, head)
        ctx.save_for_backward(input, weight, bias, *rings)
        ctx.head = head
        ctx.set_materialize_grads(False)
        resolved = path_resolve(rings, head.paths, eps=head.eps, entropy=head.entropy)
        return resolved.loss, resolved.log_prob

    @staticmethod
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_log_prob: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        input, weight, bias, *rings = ctx.saved_tensors
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the loss of a linear layer by tiles has no second derivative: for create_graph, "
                "raise logit_bytes, so that the logits are whole, or apply the loss to "
                "F.linear(input, weight, bias)"
            )
        gradient = _gradient(Rings(*rings), ctx.head, grad_loss, grad_log_prob)
        if gradient is None:
            return None, None, None, None
        grads = _written(input, weight, bias, ctx.head, gradient, ctx.needs_input_grad[:3])
        return (*grads, None)


def _layer(input: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Layer:
    itemsize = torch.empty(0, dtype=head.dtype).element_size()
    width = tile_width(len(input), weight.shape[1], itemsize)
    return Layer(weight, bias, head.order, head.dtype, width)


def _measured(input: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Rings:
    layer, x = _layer(input, weight, bias, head), input.to(head.dtype)
    rings = empty_rings(head.local, loss_dtype(head.dtype), with_moment=head.entropy != 0)
    buffer = layer.buffer(x)
    with torch.autocast(x.device.type, enabled=False):
        for first, last in layer.spans():
            z = layer.logits(x, layer.part(weight, first, last), first, last, buffer)
            path_measure(z, head.local, first, rings, head.backend)
    if head.exchange is not None:
        head.exchange.rings(rings)
    return rings


def _gradient(
    rings: Rings, head: Head, grad_loss: Tensor | None, grad_log_prob: Tensor | None
) -> RingGradient | None:
    """Of the rows' losses and log-probabilities, each times what comes in."""
    if grad_log_prob is None:
        if grad_loss is None:
            return None
        resolved = path_resolve(rings, head.paths, eps=head.eps, entropy=head.entropy)
        return resolved.gradient.times(grad_loss)
    # -log P of the innermost interval is one more loss over the same rings.
    weight = torch.zeros_like(head.paths.weight)
    weight[:, :1] = 1
    of_prob = path_resolve(rings, head.paths._replace(weight=weight)).gradient.times(-grad_log_prob)
    if grad_loss is None:
        return of_prob
    resolved = path_resolve(rings, head.paths, eps=head.eps, entropy=head.entropy)
    of_loss = resolved.gradient.times(grad_loss)
    return of_loss._replace(
        factor=of_loss.factor + of_prob.factor, offset=of_loss.offset + of_prob.offset
    )


def _written(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    head: Head,
    gradient: RingGradient,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    layer, x = _layer(input, weight, bias, head), input.to(head.dtype)
    # Tiles add up in the input's gradient, so that it is kept in the type worked in.
    grad_input = torch.zeros_like(x, dtype=loss_dtype(x.dtype)) if needed[0] else None
    grad_weight = torch.empty_like(weight) if needed[1] else None
    grad_bias = torch.empty_like(bias) if needed[2] and bias is not None else None
    buffer = layer.buffer(x)
    with torch.autocast(x.device.type, enabled=False):
        for first, last in layer.spans():
            part = layer.part(weight, first, last)
            g = layer.logits(x, part, first, last, buffer)
            path_write(g, head.local, first, gradient, g, head.backend)
            if grad_input is not None:
                if grad_input.dtype == g.dtype:
                    grad_input.addmm_(g, part)
                else:
                    grad_input += torch.mm(g, part)
            if grad_weight is not None:
                if head.order is None and grad_weight.dtype == g.dtype:
                    torch.mm(g.T, x, out=grad_weight[first:last])
                else:
                    layer.put(grad_weight, first, last, torch.mm(g.T, x))
            if grad_bias is not None:
                layer.put(grad_bias, first, last, g.sum(0, dtype=loss_dtype(g.dtype)))
    if grad_input is not None:
        if head.exchange is not None:
            head.exchange.grad_input(grad_input)
        grad_input = grad_input.to(input.dtype)
    return grad_input, grad_weight, grad_bias
