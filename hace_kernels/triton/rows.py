"""What the launchers of losses share: reductions, factors, numbers for kernels."""

from __future__ import annotations

import struct

import torch
import triton
from torch import Tensor

from .rows_kernel import Targets, reduce_kernel, scale_kernel, weigh_kernel

__all__ = [
    "MEAN",
    "NONE",
    "bits",
    "incoming",
    "l2_bytes",
    "reduced",
    "scale_in_place",
    "total_weight",
]

NONE, MEAN = 0, 1

# The size taken for a GPU whose L2 cache torch cannot tell.
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


def incoming(grad_loss: Tensor | None) -> dict[str, Tensor]:
    """The incoming gradient as a field of `Targets`: one number for all rows, or one per row."""
    if grad_loss is None:
        return {}
    if grad_loss.dim() == 0 or grad_loss.stride(0) == 0:
        return {"grad_loss": grad_loss}
    return {"grad_losses": grad_loss.contiguous()}


def reduced(row_loss: Tensor, divisor: Tensor | None, reduction: int) -> Tensor:
    """The rows' losses as the reduction wants them."""
    if reduction == NONE:
        return row_loss
    loss = row_loss.new_empty(())
    reduce_kernel[(1,)](row_loss, divisor, loss, len(row_loss), ROWS=_REDUCED_AT_ONCE)
    return loss


def scale_in_place(grad: Tensor, factor: Tensor) -> Tensor:
    """`grad *= factor` for one factor on the device; nothing is moved where it is 1."""
    if grad.numel():
        programs = triton.cdiv(grad.numel(), _SCALED_AT_ONCE)
        scale_kernel[(programs,)](grad, factor, grad.numel(), BLOCK=_SCALED_AT_ONCE, num_warps=8)
    return grad


def bits(number: float) -> int | None:
    """A float64 as an integer, for Triton hands floats to kernels in float32; None for 0."""
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
