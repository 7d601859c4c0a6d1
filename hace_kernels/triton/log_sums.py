"""Sums of exponentials on the device, as pairs (top, total) that mean `total * exp(top)`.

A top is the largest logit of its sum, so that no pair overflows or underflows. A pair of nothing is
(-inf, 0).
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["finite", "log_one_plus_ratio", "merge", "merge_among", "ratio"]


@triton.jit
def finite(top):
    """A top as it may be subtracted: that of nothing is as good as any."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def merge(a_top, a_total, b_top, b_total):
    top = tl.maximum(a_top, b_top)
    shift = finite(top)
    return top, a_total * tl.exp(a_top - shift) + b_total * tl.exp(b_top - shift)


@triton.jit
def merge_among(top, total, among):
    """For every i the merger of the pairs r with `among[i, r]`."""
    best = tl.max(tl.where(among, top[None, :], float("-inf")), axis=1)
    parts = total[None, :] * tl.exp(top[None, :] - finite(best)[:, None])
    return best, tl.sum(tl.where(among, parts, 0.0), axis=1)


@triton.jit
def ratio(a_top, a_total, b_top, b_total):
    """a / b; infinite where that is beyond the working type."""
    quotient = a_total / b_total * tl.exp(a_top - finite(b_top))
    return tl.where(a_total == 0, 0.0, quotient)


@triton.jit
def log_one_plus_ratio(a_top, a_total, b_top, b_total):
    """`log(1 + a / b)`: the error of rounding 1 + q to u is undone by the quotient q / (u - 1)."""
    q = ratio(a_top, a_total, b_top, b_total)
    u = 1 + q
    moderate = tl.where(u == 1, q, tl.log(u) * (q / tl.where(u == 1, 1.0, u - 1)))
    huge = (a_top - b_top) + tl.log(a_total / b_total)
    return tl.where(q < 1e30, moderate, huge)
