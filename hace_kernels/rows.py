"""What every implementation of the ops says of rows: dtypes of results, weights, reductions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["REDUCTIONS", "loss_dtype", "reduce", "row_weights"]

#: As the native ops number them.
REDUCTIONS = ("none", "mean", "sum")


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays; every narrower dtype is worked on, and its loss given, in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_weights(
    counts: Tensor, row: Tensor, target_weight: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """What each row counts for: its target's weight, or 0 where it does not count."""
    if target_weight is None:
        return counts.to(dtype)
    return torch.where(counts, target_weight.to(dtype)[row], 0.0)


def reduce(loss: Tensor, total_weight: Tensor | int, reduction: str) -> Tensor:
    """Weighted rows to what the caller asked for; `mean` divides by the sum of the weights."""
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / total_weight
