"""What the launchers of losses share: the ops, reductions, and how numbers reach kernels."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..rows import loss_dtype
from .device import on_its_device
from .rows_kernel import Targets, reduce_kernel, scale_kernel, weigh_kernel

__all__ = [
    "MEAN",
    "NONE",
    "Results",
    "bits",
    "incoming",
    "l2_bytes",
    "loss_ops",
    "reduced",
    "scale_in_place",
    "total_weight",
]

NONE, MEAN = 0, 1

# The size assumed where torch does not know that of the L2 cache.
_L2_BYTES = 32 * 2**20

_REDUCED_AT_ONCE = 1024
_SCALED_AT_ONCE = 8192


def total_weight(
    target: Tensor, target_weight: Tensor | None, num_targets: int, ignore_index: int
) -> Tensor:
    """What `mean` divides by, on the device: the sum of the rows' weights."""
    divisor = target.new_empty((), dtype=torch.float64)
    weigh_kernel[(1,)](
        Targets(target, target_weight), divisor, len(target), num_targets, ignore_index,
        ROWS=_REDUCED_AT_ONCE,
    )  # fmt: skip
    return divisor


class Results(NamedTuple):
    """Where a loss's kernels write: `row_loss` (B), `grad` (B, C), or None where not asked for.

    Attributes:
        divisor: what `mean` divides the gradient by; None for 1.
        grad_loss: the incoming gradient; None for 1.
    """

    row_loss: Tensor | None
    grad: Tensor | None
    divisor: Tensor | None = None
    grad_loss: Tensor | None = None


def loss_ops(
    name: str,
    arguments_type: Callable[..., Any],
    divisor_of: Callable[[Any], Tensor],
    launch: Callable[[Any, Results], None],
) -> dict[str, Callable[..., Any]]:
    """The op of a loss and its backward, by name.

    Args:
        arguments_type: the named tuple of the op's arguments.
        divisor_of: gives what `mean` divides by, from these arguments.
        launch: runs the kernels on these arguments.
    """

    def divisor_for(call: Any) -> Tensor | None:
        return divisor_of(call) if call.reduction == MEAN else None

    def loss(*arguments: Any) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient for an incoming one of 1 unless it was not asked for."""
        call, with_grad = arguments_type(*arguments[:-1]), arguments[-1]
        logits, divisor = call.logits, divisor_for(call)
        row_loss = logits.new_empty(len(logits), dtype=loss_dtype(logits.dtype))
        grad = logits.new_empty(logits.shape) if with_grad else None
        launch(call, Results(row_loss, grad, divisor if with_grad else None))
        loss = reduced(row_loss, divisor, call.reduction)
        return loss, logits.new_empty(0) if grad is None else grad

    def backward(grad_loss: Tensor, *arguments: Any) -> Tensor:
        """The gradient for any incoming one, computed from the logits again."""
        call = arguments_type(*arguments)
        grad: Tensor = call.logits.new_empty(call.logits.shape)
        launch(call, Results(None, grad, divisor_for(call), grad_loss))
        return grad

    return {name: loss, f"{name}_backward": backward}


def incoming(grad_loss: Tensor | None) -> dict[str, Tensor]:
    """The incoming gradient as a field of `Targets`, which depends on whether it varies by row."""
    if grad_loss is None:
        return {}
    if grad_loss.dim() == 0 or grad_loss.stride(0) == 0:
        return {"grad_loss": grad_loss}
    return {"grad_losses": grad_loss.contiguous()}


def reduced(row_loss: Tensor, divisor: Tensor | None, reduction: int) -> Tensor:
    """The rows' losses, reduced as asked."""
    if reduction == NONE:
        return row_loss
    loss = row_loss.new_empty(())
    reduce_kernel[(1,)](row_loss, divisor, loss, len(row_loss), ROWS=_REDUCED_AT_ONCE)
    return loss


@on_its_device
def scale_in_place(grad: Tensor, factor: Tensor) -> Tensor:
    """`grad *= factor` for one factor on the device; nothing is moved where it is 1."""
    if grad.numel():
        programs = triton.cdiv(grad.numel(), _SCALED_AT_ONCE)
        scale_kernel[(programs,)](grad, factor, grad.numel(), BLOCK=_SCALED_AT_ONCE, num_warps=8)
    return grad


def bits(number: float) -> int | None:
    """The bits of a float64 as an integer, as Triton passes floats in float32; None for 0."""
    if number == 0:
        return None
    integer: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return integer


def l2_bytes(device: torch.device) -> int:
    """The size of the device's L2 cache."""
    if device.type != "cuda":
        return _L2_BYTES
    size: int = torch.cuda.get_device_properties(device).L2_cache_size
    return size or _L2_BYTES
