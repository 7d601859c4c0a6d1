"""The exponential function."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["exp"]

# log 2 in two parts: products of the first one with a power of two's exponent are exact.
_LOG2_HIGH = tl.constexpr(0.693359375)
_LOG2_LOW = tl.constexpr(-2.121944400546905827679e-4)
_ONE_BY_LOG2 = tl.constexpr(1.4426950408889634)

# 2^n is 0 for this n.
_LEAST = tl.constexpr(-160.0)


@triton.jit
def exp(x):
    """e^x for finite x and -inf, to two roundings; below the smallest normal number it may be 0.

    On GPUs `tl.exp` of float32 is 2^y for a rounded product y = x log2(e): at x = -40 it is off by
    1e-6. Here x = n log 2 + r with a small r, for which that is exact enough.
    """
    if x.dtype == tl.float64:
        result = tl.exp(x)
    else:
        n = tl.maximum(tl.floor(x * _ONE_BY_LOG2 + 0.5), _LEAST)
        r = (x - n * _LOG2_HIGH) - n * _LOG2_LOW
        result = tl.exp(r) * tl.exp2(n)
    return result
