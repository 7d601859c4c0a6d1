"""Checks of a linear layer that is given as plain tensors."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_layer"]


def check_layer(input: object, weight: object, columns: int) -> None:
    """Raises unless input and weight fit a linear layer with this many columns of logits.

    Raises:
        TypeError: one of them is not a tensor.
        ValueError: input is not (F) or (N, F), or the weight is not (columns, F).
    """
    for name, x in (("input", input), ("linear_weight", weight)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    assert isinstance(input, Tensor)
    assert isinstance(weight, Tensor)
    if input.dim() not in (1, 2):
        raise ValueError(
            f"input must be the layer's, of shape (F) or (N, F); got {tuple(input.shape)}"
        )
    if weight.shape != (columns, input.shape[-1]):
        raise ValueError(
            f"linear_weight must be ({columns}, {input.shape[-1]}), one row for each column of the "
            f"logits; got {tuple(weight.shape)}"
        )
