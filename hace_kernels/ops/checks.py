"""Checks of the ops' arguments, the cheapest first."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rows import REDUCTIONS

__all__ = [
    "check_devices",
    "check_options",
    "check_rows",
    "check_rows_or_pixels",
    "for_kernel",
    "no_grad_of",
]


def check_rows(name: str, x: Tensor, width: int, columns: str) -> None:
    """Raises TypeError or ValueError unless x is floating and (B, width)."""
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if x.dim() != 2 or x.shape[1] != width:
        raise ValueError(
            f"{name} must be (B, {width}), one column per {columns}; got {tuple(x.shape)}"
        )


def check_rows_or_pixels(name: str, x: Tensor, width: int, columns: str) -> None:
    """Raises TypeError or ValueError unless x is floating and (B, width) or (N, width, S)."""
    if x.dim() != 3:
        check_rows(name, x, width, columns)
    elif not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    elif x.shape[1] != width:
        raise ValueError(
            f"{name} must be (B, {width}) or (N, {width}, S), one column per {columns}; got "
            f"{tuple(x.shape)}"
        )


def check_devices(rows: Tensor, **devices: torch.device) -> None:
    """Raises ValueError unless all devices are that of the rows."""
    here = rows.device
    for name, device in devices.items():
        if device != here:
            raise ValueError(f"{name} must be on the device of the rows, {here}; it is on {device}")


def check_options(reduction: str, eps: float, entropy: float = 0.0) -> None:
    """Raises ValueError unless every option has a valid value."""
    if not abs(entropy) < float("inf"):
        raise ValueError(f"entropy must be a finite number, got {entropy!r}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be 0 or a small positive number, got {eps!r}")


def for_kernel(x: Tensor) -> Tensor:
    """Rows as the kernels take them: with any stride between rows, and unit stride along a row.

    Pixels (N, C, S) have unit stride along S.
    """
    return x if x.stride(-1) == 1 else x.contiguous()


def no_grad_of(arg: object) -> list[None] | None:
    """The gradient of an argument without one: torch.library wants a list for a list of tensors."""
    if isinstance(arg, list) and all(isinstance(item, Tensor) for item in arg):
        return [None] * len(arg)
    return None
