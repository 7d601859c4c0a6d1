"""Ratios of sums: figures of batches are added up, and divided at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hace_kernels.widest import widened, widest_dtype

__all__ = ["Ratio", "share"]


@dataclass(frozen=True)
class Ratio:
    """A figure as a sum over rows divided by another sum over rows.

    The mean of the figures of batches is not the figure of all rows; the ratio of sums is.

    Attributes:
        numerator: int64 or float64.
        denominator: of the same shape and dtype.
    """

    numerator: Tensor
    denominator: Tensor

    def __add__(self, other: Ratio) -> Ratio:
        """The ratio over the rows of both."""
        return Ratio(self.numerator + other.numerator, self.denominator + other.denominator)

    def value(self) -> Tensor:
        """A scalar of the default dtype; NaN where there was nothing to divide by."""
        quotient = widened(self.numerator) / widened(self.denominator)
        return quotient.to(torch.get_default_dtype())


def share(of: Tensor) -> Ratio:
    """The mean over the rows, as a ratio, of bools or numbers (R) or (R, …)."""
    count = torch.full(of.shape[1:], len(of), dtype=torch.int64, device=of.device)
    dtype = widest_dtype(of.device) if of.is_floating_point() else torch.int64
    return Ratio(of.sum(0, dtype=dtype), count)
