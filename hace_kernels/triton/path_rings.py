"""The rings of a path, from the inside out and from the outside in: the loss and its coefficients.

A step handles up to `cut.rings` rings. What it leaves for the next steps is in `Memory`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .exp import exp
from .log_sums import LogSum, finite, log_one_plus_ratio, merge, merge_among, ratio
from .path_masses import Mass, Memory, merge_all, merge_masses, ring_masses
from .rows_kernel import number

__all__ = [
    "INSIDE_MAX",
    "OFFSET",
    "OF_INTERVAL",
    "OF_ROW",
    "RING_FIELDS",
    "ROW",
    "RowTerms",
    "Settings",
    "resolve",
    "rings_of",
]

# Fields of each ring, in `Memory`: the log-sum of the ring, that of its interval, the factor of
# exp(z - max of the row), the factor of exp(z - max of the interval), and what is added to these.
_MAX = tl.constexpr(0)
_SUM = tl.constexpr(1)
INSIDE_MAX = tl.constexpr(2)
_INSIDE_SUM = tl.constexpr(3)
OF_ROW = tl.constexpr(4)
OF_INTERVAL = tl.constexpr(5)
OFFSET = tl.constexpr(6)
# The field of the row itself: `RowTerms` and the factor of the row's gradient.
ROW = tl.constexpr(7)
_FIELDS = tl.constexpr(8)
RING_FIELDS = _FIELDS.value

_ONE = tl.constexpr(1)


class Settings(NamedTuple):
    """The bits of float64 numbers, or None for 0; see `rows.bits`."""

    entropy: Any = None
    eps: Any = None


class RowTerms(NamedTuple):
    """What the gradient needs to know of a row: its largest logit, and two numbers for entropy.

    Entropy adds slope e^(z_j - max) (z_j - max + middle) to the gradient.
    """

    max: Any
    slope: Any
    middle: Any


@triton.jit
def rings_of(row, rings, cut):
    """The memory of a row's rings, which has room for those of the longest path."""
    step: tl.constexpr = _ONE << cut.steps
    return Memory(rings + row * step * _FIELDS, step)


@triton.jit
def _sum_outwards(
    row, path, strips, rings, cut,
    split: tl.constexpr, with_moment: tl.constexpr, work: tl.constexpr,
):  # fmt: skip
    """Stores each ring's mass, its interval's mass and its A, from the inside out.

    Returns the mass of the row.
    """
    zero = tl.full((), 0.0, work)
    everything, weights = Mass(tl.full((), float("-inf"), work), zero, zero), zero
    for first in tl.range(0, path.length + 1, cut.rings, num_stages=1):
        ring = first + tl.arange(0, cut.rings)
        own = ring_masses(first, row, path, strips, cut, split, with_moment, work)
        inside = merge(merge_among(own, ring[None, :] <= ring[:, None]), everything)
        w = tl.load(path.weight + ring, mask=ring < path.length, other=0.0).to(work)
        of_row = weights + tl.sum(tl.where(ring[None, :] < ring[:, None], w[None, :], 0.0), axis=1)
        weights += tl.sum(w, axis=0)
        there = ring <= path.length
        tl.store(rings.at + _MAX * rings.step + ring, own.max, mask=there)
        tl.store(rings.at + _SUM * rings.step + ring, own.sum, mask=there)
        tl.store(rings.at + INSIDE_MAX * rings.step + ring, inside.max, mask=there)
        tl.store(rings.at + _INSIDE_SUM * rings.step + ring, inside.sum, mask=there)
        tl.store(rings.at + OF_ROW * rings.step + ring, of_row, mask=there)
        everything = merge_masses(everything, merge_all(own, with_moment), with_moment)
    tl.debug_barrier()
    return everything


@triton.jit
def _load_ring(rings, ring, there):
    """A ring's own log-sum and its interval's."""
    own = LogSum(
        tl.load(rings.at + _MAX * rings.step + ring, mask=there, other=float("-inf")),
        tl.load(rings.at + _SUM * rings.step + ring, mask=there, other=0.0),
    )
    inside = LogSum(
        tl.load(rings.at + INSIDE_MAX * rings.step + ring, mask=there, other=float("-inf")),
        tl.load(rings.at + _INSIDE_SUM * rings.step + ring, mask=there, other=0.0),
    )
    return own, inside


@triton.jit
def _beyond(own, ring, outside):
    """The log-sum of what lies outside of each of some rings, and that of them and all outside.

    `outside` is the log-sum of what lies outside of all of them.
    """
    beyond = merge(merge_among(own, ring[None, :] > ring[:, None]), outside)
    best = tl.max(own.max, axis=0)
    total = tl.sum(own.sum * exp(own.max - finite(best)), axis=0)
    return beyond, merge(outside, LogSum(best, total))


@triton.jit
def _sum_inwards(path, rings, everything, factor, cut, work: tl.constexpr):
    """Returns the loss; stores each ring's A and B, divided by their sums, from the outside in.

    The loss of an interval without mass is infinite, and its weight in the gradient is spread
    evenly over its columns: this is the offset that is stored too.
    """
    scale = factor.to(work) / everything.sum
    scale = tl.where(everything.sum > 0, scale, float("nan"))
    lane = tl.arange(0, cut.rings)
    zero = tl.full((), 0.0, work)
    loss, offset = zero, zero
    outside = LogSum(tl.full((), float("-inf"), work), zero)
    next_one, next_b = LogSum(zero, zero + 1), zero
    for step in tl.range(0, path.length // cut.rings + 1, num_stages=1):
        ring = (path.length // cut.rings - step) * cut.rings + lane
        there = ring <= path.length
        is_interval = ring < path.length
        own, inside = _load_ring(rings, ring, there)
        of_row = tl.load(rings.at + OF_ROW * rings.step + ring, mask=there, other=0.0)
        w = tl.load(path.weight + ring, mask=is_interval, other=0.0).to(work)
        beyond, outside = _beyond(own, ring, outside)

        from_inside = ring[None, :] >= ring[:, None]
        alive = is_interval & (inside.sum != 0)
        dead = is_interval & (inside.sum == 0)
        terms = tl.where(alive, w * log_one_plus_ratio(beyond, inside), 0.0)
        loss += tl.sum(tl.where(dead, w * float("inf"), terms), axis=0)
        q = ratio(beyond, inside)
        lost = tl.where(alive, w * tl.where(q < 1e30, q / (1 + q), 1.0), 0.0)
        shares = ratio(
            LogSum(inside.max[:, None], inside.sum[:, None]),
            LogSum(inside.max[None, :], inside.sum[None, :]),
        )
        shares = tl.where(from_inside & alive[None, :], shares, 0.0)
        b = tl.sum(shares * lost[None, :], axis=1)
        if next_b != 0:
            b += next_b * ratio(inside, next_one)
        at_begin = lane == 0
        next_one = LogSum(
            tl.sum(tl.where(at_begin, inside.max, 0.0), axis=0),
            tl.sum(tl.where(at_begin, inside.sum, 0.0), axis=0),
        )
        next_b = tl.sum(tl.where(at_begin, b, 0.0), axis=0)

        width = tl.load(path.stop + ring, mask=is_interval, other=1)
        width -= tl.load(path.start + ring, mask=is_interval, other=0)
        spread = tl.where(dead, w / width.to(work), 0.0)
        added = offset - tl.sum(tl.where(from_inside, spread[None, :], 0.0), axis=1)
        offset -= tl.sum(spread, axis=0)
        b = tl.where(inside.sum != 0, b * factor.to(work) / inside.sum, tl.zeros_like(b))
        tl.store(rings.at + OF_ROW * rings.step + ring, of_row * scale, mask=there)
        tl.store(rings.at + OF_INTERVAL * rings.step + ring, b, mask=there)
        tl.store(rings.at + OFFSET * rings.step + ring, added * factor.to(work), mask=there)
    tl.debug_barrier()
    return loss


@triton.jit
def _sum_with_eps(path, rings, everything, factor, eps, cut, work: tl.constexpr):
    """The same with eps in the logarithm, where, with c_i = w_i / (P_i + eps),

    dL/dz_j = p_j (sum_{i < r} c_i P_i - sum_{i >= r} c_i (1 - P_i))
    """
    scale = factor.to(work) / everything.sum
    scale = tl.where(everything.sum > 0, scale, float("nan"))
    lane = tl.arange(0, cut.rings)
    zero = tl.full((), 0.0, work)
    loss, outer, inner = zero, zero, zero
    outside = LogSum(tl.full((), float("-inf"), work), zero)
    for step in tl.range(0, path.length // cut.rings + 1, num_stages=1):
        ring = (path.length // cut.rings - step) * cut.rings + lane
        there = ring <= path.length
        is_interval = ring < path.length
        own, inside = _load_ring(rings, ring, there)
        w = tl.load(path.weight + ring, mask=is_interval, other=0.0).to(work)
        beyond, outside = _beyond(own, ring, outside)

        p = ratio(inside, everything)
        c = tl.where(is_interval, w / (p + eps.to(work)), 0.0)
        loss -= tl.sum(tl.where(is_interval, w * tl.log(p + eps.to(work)), 0.0), axis=0)
        lost = c * ratio(beyond, everything)
        from_inside = ring[None, :] >= ring[:, None]
        pushed = outer - tl.sum(tl.where(from_inside, lost[None, :], 0.0), axis=1)
        outer -= tl.sum(lost, axis=0)
        tl.store(rings.at + OF_ROW * rings.step + ring, c * p, mask=there)
        tl.store(rings.at + OF_INTERVAL * rings.step + ring, pushed, mask=there)
        tl.store(rings.at + OFFSET * rings.step + ring, tl.zeros_like(w), mask=there)
    tl.debug_barrier()
    for first in tl.range(0, path.length + 1, cut.rings, num_stages=1):
        ring = first + lane
        there = ring <= path.length
        pull = tl.load(rings.at + OF_ROW * rings.step + ring, mask=there, other=0.0)
        pushed = tl.load(rings.at + OF_INTERVAL * rings.step + ring, mask=there, other=0.0)
        pulled = tl.where(ring[None, :] < ring[:, None], pull[None, :], 0.0)
        of_row = (inner + tl.sum(pulled, axis=1) + pushed) * scale
        inner += tl.sum(pull, axis=0)
        tl.debug_barrier()
        tl.store(rings.at + OF_ROW * rings.step + ring, of_row, mask=there)
        tl.store(rings.at + OF_INTERVAL * rings.step + ring, tl.zeros_like(pull), mask=there)
    tl.debug_barrier()
    return loss


@triton.jit
def resolve(row, path, strips, rings, factor, settings, cut, split: tl.constexpr):
    """Computes the row's loss and terms and every ring's coefficients from strips and pieces."""
    work: tl.constexpr = rings.at.dtype.element_ty
    with_moment: tl.constexpr = settings.entropy is not None
    everything = _sum_outwards(row, path, strips, rings, cut, split, with_moment, work)
    if settings.eps is not None:
        eps = number(settings.eps)
        loss = _sum_with_eps(path, rings, everything, factor, eps, cut, work)
    else:
        loss = _sum_inwards(path, rings, everything, factor, cut, work)
    slope = tl.full((), 0.0, work)
    middle = slope
    if with_moment:
        # `middle` is such that log p_j - sum_i p_i log p_i = z_j - max + middle.
        entropy = number(settings.entropy).to(work)
        log_sum = tl.log(everything.sum)
        negative_entropy = everything.moment / everything.sum - log_sum
        loss += entropy * negative_entropy
        scale = factor.to(work) / everything.sum
        slope = entropy * tl.where(everything.sum > 0, scale, float("nan"))
        middle = -log_sum - negative_entropy
    loss = tl.where(everything.sum > 0, loss, float("nan"))
    return loss, RowTerms(finite(everything.max), slope, middle)
