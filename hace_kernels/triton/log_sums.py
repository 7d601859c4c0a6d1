"""Sums of exponentials on the device, as pairs (top, total) that mean `total * exp(top)`.

A pair of nothing is (-inf, 0). A top is the largest logit of its sum, so that no pair overflows or
underflows, and merging two costs one exponential.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dtypes import kernel_function

__all__ = ["finite", "log_one_plus_ratio", "merge", "prefix", "ratio", "suffix"]


@kernel_function
def finite(top):
    """A top to subtract: exponentials relative to it are 0 where it stands for nothing."""
    return tl.where(top == float("-inf"), 0.0, top)


@kernel_function
def merge(a_top, a_total, b_top, b_total):
    top = tl.maximum(a_top, b_top)
    shift = finite(top)
    return top, a_total * tl.exp(a_top - shift) + b_total * tl.exp(b_top - shift)


@kernel_function
def ratio(a_top, a_total, b_top, b_total):
    """a / b, 0 where a is nothing; infinite where it is beyond the working type."""
    quotient = a_total / b_total * tl.exp(a_top - finite(b_top))
    return tl.where(a_total == 0, 0.0, quotient)


@kernel_function
def log_one_plus_ratio(a_top, a_total, b_top, b_total):
    """`log(1 + a / b)`, exact where a / b is far below 1 or beyond the working type.

    The error of rounding 1 + q to u is undone by the quotient q / (u - 1).
    """
    q = ratio(a_top, a_total, b_top, b_total)
    u = 1 + q
    small = tl.where(u == 1, q, tl.log(u) * (q / tl.where(u == 1, 1.0, u - 1)))
    large = (a_top - b_top) + tl.log(a_total / b_total)
    return tl.where(q < 1e30, small, large)


@kernel_function
def prefix(top, total, among):
    """At each place i the merger of the pairs [r] with `among[i, r]`."""
    tops = tl.where(among, top[None, :], float("-inf"))
    best = tl.max(tops, axis=1)
    parts = total[None, :] * tl.exp(top[None, :] - finite(best)[:, None])
    return best, tl.sum(tl.where(among, parts, 0.0), axis=1)
