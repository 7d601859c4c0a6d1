"""What the ops share row by row: weights, reductions, and the checks of their targets."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "check_mass_has_classes",
    "check_targets",
    "check_targets_have_classes",
    "loss_dtype",
    "no_class",
    "out_of_range",
    "reduce",
    "row_weights",
]


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


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays; every narrower dtype is worked on, and its loss given, in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_targets(target: Tensor, bad: Tensor, num_targets: int) -> None:
    """Raises IndexError for the first bad target on a CPU; an accelerator gives NaN unasked.

    Targets are (B,), or (B, K) with several a row.
    """
    if (found := _first(target, bad)) is not None:
        raise IndexError(out_of_range(*found, num_targets))


def out_of_range(value: int, row: int, num_targets: int) -> str:
    return f"target {value} of row {row} is out of range: it must be in [0, {num_targets})"


def check_targets_have_classes(target: Tensor, bad: Tensor) -> None:
    """The same for targets that no class is at or below."""
    if (found := _first(target, bad)) is not None:
        raise IndexError(no_class(*found))


def check_mass_has_classes(mass: Tensor, empty: Tensor) -> None:
    """The same for mass (B, T) on targets, of which `empty` (T) have no class."""
    index = torch.arange(mass.shape[1], device=mass.device).expand_as(mass)
    check_targets_have_classes(index, (mass != 0) & empty)


def no_class(value: int, row: int) -> str:
    return (
        f"target {value} of row {row} has no class at or below it, so its probability is 0 "
        "whatever the logits"
    )


def _first(target: Tensor, bad: Tensor) -> tuple[int, int] | None:
    """The first bad target and its row, where looking does not wait for an accelerator."""
    if torch.compiler.is_compiling() or target.device.type != "cpu" or not bad.any():
        return None
    at = bad.nonzero()[0]
    return int(target[tuple(at)]), int(at[0])
