"""`path_measure` and `path_write`: a tile of columns, one program for each row and ring.

A ring is what an interval adds to the one inside it: two stretches of columns, or one. Most rings
of most rows lie outside of a tile, and their programs end at once. No two programs write the same
number, so that the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .exp import exp
from .log_sums import finite

__all__ = ["Gradient", "Paths", "Rings", "Tile", "measure_kernel", "write_kernel"]

_SIZES = ("first", "columns", "row_stride", "grad_stride")


class Tile(NamedTuple):
    """Logits (B, T) of class positions `first` … `first` + T."""

    logits: Any
    row_stride: Any
    columns: Any
    first: Any


class Paths(NamedTuple):
    """Intervals of class positions, int32 (B, K), and K."""

    start: Any
    stop: Any
    entries: Any


class Rings(NamedTuple):
    """The rings' largest logits (in the working type) and float64 sums, all (B, K+1).

    `moment` may be None.
    """

    max: Any
    sum: Any
    moment: Any


class Gradient(NamedTuple):
    """The fields of `RingGradient`, (B, K+1); `slope` and `middle` may be None."""

    shift: Any
    factor: Any
    offset: Any
    slope: Any
    middle: Any


@triton.jit
def stretches(tile, paths, row, ring):
    """A ring's columns before and after the interval inside it, as two pairs of bounds."""
    outer_start = tl.full((), 0, tl.int64) + tile.first
    outer_stop = outer_start + tile.columns
    at = row * paths.entries + ring
    if ring < paths.entries:
        outer_start = tl.load(paths.start + at).to(tl.int64)
        outer_stop = tl.load(paths.stop + at).to(tl.int64)
    inner_start = outer_stop
    inner_stop = outer_stop
    if ring > 0:
        inner_start = tl.load(paths.start + at - 1).to(tl.int64)
        inner_stop = tl.load(paths.stop + at - 1).to(tl.int64)
    return (
        local(tile, outer_start),
        local(tile, inner_start),
        local(tile, inner_stop),
        local(tile, outer_stop),
    )


@triton.jit
def local(tile, position):
    """A class position as a column of the tile."""
    return tl.minimum(tl.maximum(position - tile.first, 0), tile.columns)


@triton.jit
def moved(top, total, moment, to):
    """A sum of exponentials and its moment, relative to a maximum that is at least its own."""
    gap = top - to
    scale = exp(gap)
    return scale * total, tl.where(scale == 0, 0.0, scale * (moment + gap * total))


@triton.jit
def at_least(top, logits):
    """A maximum in float64 that is safe to subtract: at least the lowest finite logit."""
    if logits.dtype.element_ty == tl.float64:
        lowest = tl.full((), -1.7976931348623157e308, tl.float64)
    else:
        lowest = tl.full((), -3.4028234663852886e38, tl.float64)
    return tl.where(top < lowest, lowest, top)


@triton.jit
def add(top, total, moment, logits, begin, end, BLOCK: tl.constexpr, MOMENT: tl.constexpr):
    """Adds columns begin … end to a sum. Everything but the exponentials is float64."""
    wide: tl.constexpr = logits.dtype.element_ty == tl.float64
    work: tl.constexpr = tl.float64 if wide else tl.float32
    for first in range(begin, end, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < end
        z = tl.load(logits + column, mask=inside, other=float("-inf")).to(work)
        here = tl.max(tl.where(z == z, z, float("-inf")), axis=0)
        gap = z - finite(here)
        exps = tl.where(inside, exp(gap), 0.0)
        here_total = tl.sum(exps.to(tl.float64), axis=0)
        here_moment = tl.full((), 0.0, tl.float64)
        if MOMENT:
            terms = tl.where(exps == 0, 0.0, exps * gap)
            here_moment = tl.sum(terms.to(tl.float64), axis=0)
        here_top = here.to(tl.float64)
        highest = tl.maximum(top, here_top)
        to = at_least(highest, logits)
        total, moment = moved(at_least(top, logits), total, moment, to)
        more, more_moment = moved(at_least(here_top, logits), here_total, here_moment, to)
        total += more
        moment += more_moment
        top = highest
    return top, total, moment


@triton.jit(do_not_specialize=_SIZES)
def measure_kernel(tile, paths, rings, BLOCK: tl.constexpr):
    """Merges the columns of a ring into its sum."""
    row = tl.program_id(0).to(tl.int64)
    ring = tl.program_id(1).to(tl.int64)
    a, b, c, d = stretches(tile, paths, row, ring)
    if (a < b) | (c < d):
        logits = tile.logits + row * tile.row_stride
        at = row * (paths.entries + 1) + ring
        has_moment: tl.constexpr = rings.moment is not None
        top = tl.load(rings.max + at).to(tl.float64)
        total = tl.load(rings.sum + at)
        moment = tl.full((), 0.0, tl.float64)
        if has_moment:
            moment = tl.load(rings.moment + at)
        top, total, moment = add(top, total, moment, logits, a, b, BLOCK, has_moment)
        top, total, moment = add(top, total, moment, logits, c, d, BLOCK, has_moment)
        tl.store(rings.max + at, top.to(rings.max.dtype.element_ty))
        tl.store(rings.sum + at, total)
        if has_moment:
            tl.store(rings.moment + at, moment)


@triton.jit
def write(logits, grad, gradient, at, begin, end, BLOCK: tl.constexpr):
    """Writes the gradient of columns begin … end, which are in one ring."""
    work: tl.constexpr = gradient.shift.dtype.element_ty
    shift = tl.load(gradient.shift + at)
    factor = tl.load(gradient.factor + at).to(work)
    offset = tl.load(gradient.offset + at).to(work)
    for first in range(begin, end, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < end
        z = tl.load(logits + column, mask=inside, other=0.0).to(work)
        gap = z - shift
        gap = tl.where(gap > 0, 0.0, gap)  # logits that are computed again may be rounded up
        exps = exp(gap)
        result = tl.where(factor == 0, 0.0, exps * factor)
        if gradient.slope is not None:
            slope = tl.load(gradient.slope + at).to(work)
            middle = tl.load(gradient.middle + at).to(work)
            tilt = exps * ((gap - middle) * slope)
            result += tl.where(slope == 0, 0.0, tl.where(exps == 0, 0.0, tilt))
        result += offset
        tl.store(grad + column, result.to(grad.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def write_kernel(tile, paths, gradient, grad, grad_stride, BLOCK: tl.constexpr):
    """Writes the gradient of the columns of a ring; it may overwrite the logits."""
    row = tl.program_id(0).to(tl.int64)
    ring = tl.program_id(1).to(tl.int64)
    a, b, c, d = stretches(tile, paths, row, ring)
    logits = tile.logits + row * tile.row_stride
    at = row * (paths.entries + 1) + ring
    grad += row * grad_stride
    write(logits, grad, gradient, at, a, b, BLOCK)
    write(logits, grad, gradient, at, c, d, BLOCK)
