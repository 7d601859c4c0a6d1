"""Sums of exponentials on the device, as pairs (max, sum) that mean `sum * exp(max)`.

The max is the largest logit of the sum, so that no pair overflows or underflows. The empty sum is
(-inf, 0).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .exp import exp

__all__ = [
    "LogSum",
    "exp_of_difference",
    "finite",
    "log_one_plus_ratio",
    "merge",
    "merge_among",
    "ratio",
]


class LogSum(NamedTuple):
    """`sum * exp(max)`. The functions below accept any named tuple with these two fields."""

    max: Any
    sum: Any


@triton.jit
def finite(top):
    """A maximum that is safe to subtract: 0 in the place of -inf, the maximum of an empty sum."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def merge(a, b):
    """a + b."""
    top = tl.maximum(a.max, b.max)
    shift = finite(top)
    return LogSum(top, a.sum * exp(a.max - shift) + b.sum * exp(b.max - shift))


@triton.jit
def merge_among(x, among):
    """For every i the sum of the pairs r with `among[i, r]`."""
    best = tl.max(tl.where(among, x.max[None, :], float("-inf")), axis=1)
    parts = x.sum[None, :] * exp(x.max[None, :] - finite(best)[:, None])
    return LogSum(best, tl.sum(tl.where(among, parts, 0.0), axis=1))


@triton.jit
def exp_of_difference(x, top):
    """`exp(x - top)` without the rounding of the difference.

    Of a difference of 40 the rounding alone would be 2e-6 of the exponential in float32. What it
    left out is found exactly (Knuth's two-sum).
    """
    difference = x - top
    of_top = difference - x
    rounding = (x - (difference - of_top)) - (top + of_top)
    e = exp(difference)
    return tl.where(e == 0, e, e * (1 + rounding))


@triton.jit
def ratio(a, b):
    """a / b; infinite where the working type cannot hold it."""
    quotient = a.sum / b.sum * exp_of_difference(a.max, finite(b.max))
    return tl.where(a.sum == 0, 0.0, quotient)


@triton.jit
def log_one_plus_ratio(a, b):
    """`log(1 + a / b)`: q / (u - 1) corrects for the rounding of 1 + q to u, with q = a / b."""
    q = ratio(a, b)
    u = 1 + q
    moderate = tl.where(u == 1, q, tl.log(u) * (q / tl.where(u == 1, 1.0, u - 1)))
    huge = (a.max - b.max) + tl.log(a.sum / b.sum)
    return tl.where(q < 1e30, moderate, huge)
