"""Lists of different lengths on the device: list i is item[ptr[i]] … item[ptr[i + 1] - 1]."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["bounds_of", "items_of"]


@triton.jit
def bounds_of(ptr, i, there):
    """The bounds of lists, and the length of the longest one; lists not `there` are empty."""
    first = tl.load(ptr + i, mask=there, other=0)
    last = tl.load(ptr + i + 1, mask=there, other=0)
    return first, last, tl.max(last - first, axis=0)


@triton.jit
def items_of(item, first, last, more, width: tl.constexpr):
    """`width` items of each list, from its item number `more` on, and which of them exist."""
    at = first[:, None] + more + tl.arange(0, width)[None, :]
    mask = at < last[:, None]
    return tl.load(item + at, mask=mask, other=0), mask
