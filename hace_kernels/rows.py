"""What all implementations of the ops share about rows: dtypes of results, weights, reductions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "REDUCTIONS",
    "as_rows",
    "laid_out_like",
    "loss_dtype",
    "num_rows",
    "reduce",
    "row_weights",
]

#: The reductions; the index of each is its number in the native ops.
REDUCTIONS = ("none", "mean", "sum")


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the loss, in which it is also computed: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def num_rows(x: Tensor) -> int:
    """B of rows (B, C), or N·S of pixels (N, C, S), whose rows are the pixels of x[0], x[1], …"""
    return x.shape[0] if x.dim() == 2 else x.shape[0] * x.shape[2]


def as_rows(x: Tensor) -> Tensor:
    """Pixels (N, C, S) as rows (N·S, C), as a view where possible; rows as they are."""
    return x if x.dim() == 2 else x.movedim(1, 2).reshape(num_rows(x), x.shape[1])


def laid_out_like(rows: Tensor, x: Tensor) -> Tensor:
    """Rows (…, B, C) in the layout of x: as pixels (…, N, C, S) if x is pixels."""
    if x.dim() == 2:
        return rows
    shape = (*rows.shape[:-2], x.shape[0], x.shape[2], x.shape[1])
    return rows.reshape(shape).movedim(-1, -2)


def row_weights(
    counts: Tensor, row: Tensor, target_weight: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The weight of each row: its target's weight, or 0 where it does not count."""
    if target_weight is None:
        return counts.to(dtype)
    return torch.where(counts, target_weight.to(dtype)[row], 0.0)


def reduce(loss: Tensor, total_weight: Tensor | int, reduction: str) -> Tensor:
    """The weighted losses of rows, reduced as asked; `mean` divides by the sum of the weights."""
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / total_weight
