"""What the kernels over rows of logits share: targets, the weights of rows, reductions.

There are no atomics: the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

__all__ = [
    "Targets",
    "divided",
    "number",
    "reduce_kernel",
    "scale_kernel",
    "times_incoming",
    "weigh",
    "weigh_kernel",
]

# Triton compiles a kernel again for some values of its integer arguments, but not of these.
_SIZES = ("num_rows", "num_targets", "ignore_index", "size")


class Targets(NamedTuple):
    """The targets of rows and the weights of their losses, as pointers or None.

    Attributes:
        index: one target per row.
        weight: float64, one per target; None for 1.
        divisor: float64, what `mean` divides the gradient by; None for 1.
        grad_loss: one incoming gradient for all rows. If both are None, it is 1.
        grad_losses: one incoming gradient per row.
    """

    index: Any
    weight: Any = None
    divisor: Any = None
    grad_loss: Any = None
    grad_losses: Any = None


@triton.jit
def number(bits):
    """A float64 from its bits, or 0 for None; Triton would pass the number itself in float32."""
    number = 0.0
    if bits is not None:
        number = bits.to(tl.float64, bitcast=True)
    return number


@triton.jit
def weigh(row, mask, targets, num_targets, ignore_index):
    """The targets of rows, whether they are valid, and the rows' weights (0 if ignored)."""
    t = tl.load(targets.index + row, mask=mask, other=0)
    counts = mask & (t != ignore_index)
    valid = counts & (t >= 0) & (t < num_targets)
    if targets.weight is None:
        weight = counts.to(tl.float64)
    else:
        weight = tl.load(targets.weight + t, mask=valid, other=1.0)
        weight = tl.where(counts, weight, 0.0)
    return t, valid, weight


@triton.jit
def divided(weight, divisor):
    """A row's weight, divided by what `mean` divides by unless that is None."""
    if divisor is not None:
        total = tl.load(divisor)
        weight = tl.where((total != 0) & (weight != 0), weight / total, weight)
    return weight


@triton.jit
def times_incoming(row, factor, targets):
    """A factor times the incoming gradient of the row, in float64."""
    if targets.grad_loss is not None or targets.grad_losses is not None:
        if targets.grad_losses is None:
            incoming = tl.load(targets.grad_loss).to(tl.float64)
        else:
            incoming = tl.load(targets.grad_losses + row).to(tl.float64)
        factor = tl.where(factor != 0, factor * incoming, factor)
    return factor


@triton.jit(do_not_specialize=_SIZES)
def weigh_kernel(targets, divisor, num_rows, num_targets, ignore_index, ROWS: tl.constexpr):
    """Stores what `mean` divides by, the sum of the rows' weights. One program."""
    total = tl.full((), 0.0, tl.float64)
    for first in range(0, num_rows, ROWS):
        row = first + tl.arange(0, ROWS).to(tl.int64)
        _, _, weight = weigh(row, row < num_rows, targets, num_targets, ignore_index)
        total += tl.sum(weight, axis=0)
    tl.store(divisor, total)


@triton.jit(do_not_specialize=_SIZES)
def reduce_kernel(row_loss, divisor, loss, num_rows, ROWS: tl.constexpr):
    """Adds up the rows' weighted losses in float64, always in the same order. One program."""
    total = tl.full((), 0.0, tl.float64)
    for first in range(0, num_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        total += tl.sum(tl.load(row_loss + row, mask=row < num_rows, other=0.0).to(tl.float64))
    if divisor is not None:
        total = total / tl.load(divisor)
    tl.store(loss, total.to(loss.dtype.element_ty))


@triton.jit(do_not_specialize=_SIZES)
def scale_kernel(grad, factor, size, BLOCK: tl.constexpr):
    """`grad *= factor`. Where the factor is 1 this costs a launch but no memory traffic."""
    by = tl.load(factor)
    if by != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(grad + at, mask=at < size)
        wide = value.to(by.dtype) * by
        tl.store(grad + at, wide.to(grad.dtype.element_ty), mask=at < size)
