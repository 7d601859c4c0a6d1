"""The checks of a linear layer's tensors, and the dtype of its products."""

from __future__ import annotations

import torch
from torch import Tensor

from ..autocast import is_autocasting

__all__ = ["check_layer", "product_dtype"]


def product_dtype(input: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of `F.linear(input, weight)`: autocast's where that is on, except for float64."""
    device = input.device.type
    if input.dtype != torch.float64 and is_autocasting(device):
        return torch.get_autocast_dtype(device)
    return input.dtype


def check_layer(input: Tensor, weight: Tensor, bias: Tensor | None, num_classes: int) -> None:
    """Raises unless all are floating, (B, F), (C, F) and (C), and of one dtype or in autocast."""
    for name, x in (("input", input), ("weight", weight), ("bias", bias)):
        if x is not None and not x.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if input.dim() != 2:
        raise ValueError(f"input must be (B, F), got {tuple(input.shape)}")
    if weight.shape != (num_classes, input.shape[1]):
        raise ValueError(
            f"weight must be ({num_classes}, {input.shape[1]}), one row per class and one column "
            f"per feature of the input; got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != (num_classes,):
        raise ValueError(
            f"bias must be ({num_classes},), one entry per class; got {tuple(bias.shape)}"
        )
    same = weight.dtype == input.dtype and (bias is None or bias.dtype == input.dtype)
    if not same and not is_autocasting(input.device.type):
        raise TypeError(
            f"input, weight and bias must have one dtype, got {input.dtype}, {weight.dtype}"
            + ("" if bias is None else f" and {bias.dtype}")
            + "; cast one of them, or use torch.autocast"
        )
