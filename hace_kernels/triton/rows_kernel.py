"""What the kernels over rows of logits share: targets, what rows count for, reductions.

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

# Numbers whose values are no reason to compile again.
_SIZES = ("num_rows", "num_targets", "ignore_index", "size")


class Targets(NamedTuple):
    """What rows are compared with and what their losses count for, as pointers or None.

    Attributes:
        index: one target per row.
        weight: float64, one per target; None for 1.
        divisor: float64, what the gradient of `mean` is divided by.
        grad_loss: the incoming gradient of all rows; None for 1, or
        grad_losses: one per row.
    """

    index: Any
    weight: Any = None
    divisor: Any = None
    grad_loss: Any = None
    grad_losses: Any = None


@triton.jit
def number(bits):
    """A float64 from its bits, or 0 for None: Triton would hand it over in float32."""
    number = 0.0
    if bits is not None:
        number = bits.to(tl.float64, bitcast=True)
    return number


@triton.jit
def weigh(row, mask, targets, num_targets, ignore_index):
    """Rows' targets, whether these are valid, and what the rows count for (0 if ignored)."""
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
    """A row's weight by what `mean` divides by; None: by nothing."""
    if divisor is not None:
        total = tl.load(divisor)
        weight = tl.where((total != 0) & (weight != 0), weight / total, weight)
    return weight


@triton.jit
def times_incoming(row, factor, targets):
    """What the gradient of a row's loss is multiplied by, in float64."""
    if targets.grad_loss is not None or targets.grad_losses is not None:
        if targets.grad_losses is None:
            incoming = tl.load(targets.grad_loss).to(tl.float64)
        else:
            incoming = tl.load(targets.grad_losses + row).to(tl.float64)
        factor = tl.where(factor != 0, factor * incoming, factor)
    return factor


@triton.jit(do_not_specialize=_SIZES)
def weigh_kernel(targets, divisor, num_rows, num_targets, ignore_index, ROWS: tl.constexpr):
    """What `mean` divides by: the sum of the rows' weights. One program."""
    total = tl.full((), 0.0, tl.float64)
    for first in range(0, num_rows, ROWS):
        row = first + tl.arange(0, ROWS).to(tl.int64)
        _, _, weight = weigh(row, row < num_rows, targets, num_targets, ignore_index)
        total += tl.sum(weight, axis=0)
    tl.store(divisor, total)


@triton.jit(do_not_specialize=_SIZES)
def reduce_kernel(row_loss, divisor, loss, num_rows, ROWS: tl.constexpr):
    """The rows' weighted losses added up, in float64 and always in one order. One program."""
    total = tl.full((), 0.0, tl.float64)
    for first in range(0, num_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        total += tl.sum(tl.load(row_loss + row, mask=row < num_rows, other=0.0).to(tl.float64))
    if divisor is not None:
        total = total / tl.load(divisor)
    tl.store(loss, total.to(loss.dtype.element_ty))


@triton.jit(do_not_specialize=_SIZES)
def scale_kernel(grad, factor, size, BLOCK: tl.constexpr):
    """`grad *= factor`, which costs a launch and no memory traffic where the factor is 1."""
    by = tl.load(factor)
    if by != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(grad + at, mask=at < size)
        wide = value.to(by.dtype) * by
        tl.store(grad + at, wide.to(grad.dtype.element_ty), mask=at < size)
