"""An `nn.Linear` from given tensors."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["linear_of"]


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """The layer with this weight (C, F) and bias (C), which it does not copy."""
    out_features, in_features = weight.shape
    linear = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach())
    return linear
