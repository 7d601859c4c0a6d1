"""Sums of exponentials that neither overflow nor underflow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LogSum", "add", "log_one_plus_ratio", "ratio"]


class LogSum(NamedTuple):
    """Sums of exponentials, `exp(top) * total`; total 0 stands for none."""

    top: Tensor
    total: Tensor


def add(a: LogSum, b: LogSum) -> LogSum:
    top = torch.maximum(a.top, b.top)
    return LogSum(top, a.total * (a.top - top).exp() + b.total * (b.top - top).exp())


def ratio(a: LogSum, b: LogSum) -> Tensor:
    return a.total / b.total * (a.top - b.top).exp()


def log_one_plus_ratio(a: LogSum, b: LogSum) -> Tensor:
    """`log(1 + a / b)`, 0 where either is none."""
    some = (a.total != 0) & (b.total != 0)
    log_totals = torch.where(some, a.total, 1.0).log() - torch.where(some, b.total, 1.0).log()
    log_ratio = torch.where(some, a.top - b.top, 0.0) + log_totals
    return torch.where(some, torch.nn.functional.softplus(log_ratio, threshold=50), 0.0)
