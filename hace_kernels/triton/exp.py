"""The exponential function."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["exp"]

# log 2 in two parts: products of the first one with a power of two's exponent are exact.
_LOG2_HIGH = tl.constexpr(0.693359375)
_LOG2_LOW = tl.constexpr(-2.121944400546905827679e-4)
_ONE_BY_LOG2 = tl.constexpr(1.4426950408889634)

# Exponents beyond these make 0 and inf of every float32.
_MOST = tl.constexpr(160.0)


@triton.jit
def exp(x):
    """e^x, to two roundings.

    On GPUs `tl.exp` of float32 is 2^y for a rounded product y = x log2(e): at x = -40 it is off by
    1e-6. Here x = n log 2 + r with a small r, for which that is exact enough. 2^n has two factors,
    neither of which is so small that it becomes 0.
    """
    if x.dtype == tl.float64:
        result = tl.exp(x)
    else:
        n = tl.floor(x * _ONE_BY_LOG2 + 0.5)
        n = tl.minimum(tl.maximum(n, -_MOST), _MOST)
        r = (x - n * _LOG2_HIGH) - n * _LOG2_LOW
        half = tl.floor(0.5 * n)
        result = tl.exp(r) * tl.exp2(half) * tl.exp2(n - half)
    return result
