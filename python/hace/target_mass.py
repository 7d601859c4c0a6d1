"""Targets as probability mass (B, T): index targets and label smoothing."""

from __future__ import annotations

import torch
from torch import Tensor

from .options import Smoothing

__all__ = ["one_hot", "smoothed"]


def one_hot(
    index: Tensor, counts: Tensor, in_range: Tensor, num_targets: int, dtype: torch.dtype
) -> Tensor:
    """(B,) indices to mass (B, T): 1 on the index, nothing in rows that do not count.

    Rows that count and are out of range, which only an accelerator lets pass, are NaN.
    """
    mass = torch.zeros(len(index), num_targets, dtype=dtype, device=index.device)
    mass = mass.scatter(1, index[:, None], counts.to(dtype)[:, None])
    return torch.where((counts & ~in_range)[:, None], torch.nan, mass)


def smoothed(mass: Tensor, is_class: Tensor, epsilon: float, smoothing: Smoothing) -> Tensor:
    """Mass (B, T) with the share `epsilon` of every target's spread over the C classes.

    Args:
        mass: (B, T).
        is_class: bool (T), which targets are classes.
        epsilon: the share to spread, in [0, 1].
        smoothing: "uniform" gives ε/C to every class, the target included, as PyTorch's
            `label_smoothing` does; "others" gives ε/(C−1) to every class but the target, as the
            code of arXiv 2605.06274 does (and ε/C where the target is not a class).
    """
    if epsilon == 0:
        return mass
    num_classes = is_class.sum().to(mass.dtype)
    if smoothing == "uniform":
        spread = 1 / num_classes
    else:
        total = mass.sum(1, keepdim=True)
        on_classes = torch.where(is_class, mass, 0.0).sum(1, keepdim=True)
        of_other_classes = (on_classes - mass) / (num_classes - 1).clamp(min=1)
        spread = of_other_classes + (total - on_classes) / num_classes
    return (1 - epsilon) * mass + torch.where(is_class, epsilon * spread, 0.0)
