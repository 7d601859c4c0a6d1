"""Sums of exponentials that neither overflow nor underflow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LogSum", "add", "exp_of_difference", "log_one_plus_ratio", "ratio"]


class LogSum(NamedTuple):
    """Sums of exponentials, `exp(max) * sum`; a sum of 0 is an empty sum.

    Attributes:
        max: the largest of the exponents.
        sum: the sum of the exponentials relative to it.
    """

    max: Tensor
    sum: Tensor


def add(a: LogSum, b: LogSum) -> LogSum:
    top = torch.maximum(a.max, b.max)
    return LogSum(top, a.sum * (a.max - top).exp() + b.sum * (b.max - top).exp())


def exp_of_difference(x: Tensor, top: Tensor) -> Tensor:
    """`exp(x - top)` without the rounding of the difference.

    Of a difference of 40 the rounding alone would be 2e-6 of the exponential in float32. What it
    left out is found exactly (Knuth's two-sum).
    """
    difference = x - top
    of_top = difference - x
    rounding = (x - (difference - of_top)) - (top + of_top)
    e = difference.exp()
    return torch.where(e == 0, e, e * (1 + rounding))


def ratio(a: LogSum, b: LogSum) -> Tensor:
    return a.sum / b.sum * exp_of_difference(a.max, b.max)


def log_one_plus_ratio(a: LogSum, b: LogSum) -> Tensor:
    """`log(1 + a / b)`, or 0 where either sum is empty."""
    some = (a.sum != 0) & (b.sum != 0)
    log_totals = torch.where(some, a.sum, 1.0).log() - torch.where(some, b.sum, 1.0).log()
    log_ratio = torch.where(some, a.max - b.max, 0.0) + log_totals
    return torch.where(some, torch.nn.functional.softplus(log_ratio, threshold=50), 0.0)
