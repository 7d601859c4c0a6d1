"""The kernels of `path_log_loss`.

docs/design.md derives the gradient that is computed here. With lse_r the log-sum-exp over interval
r, lse_K that over the whole row, and j in ring r (what interval r adds to the one inside it):

    dL/dz_j = A_r exp(z_j - lse_K) - B_r exp(z_j - lse_r)
    A_r     = sum_{i < r} w_i
    B_r     = sum_{i >= r} w_i (1 - P_i) exp(lse_r - lse_i)

A row is cut into *strips* of a fixed number of class positions. A strip within one ring is *whole*:
its exponentials are relative to its own largest logit, so that nothing underflows, however far
apart the logits of the rings are, and its gradient is one factor times these exponentials. So an
element costs the same however long the paths are. The ring of a strip is found once per strip, by
bisection in the path.

The ends of the intervals cut the row into segments. The part of a segment before its first whole
strip and the part after its last one are *pieces*, shorter than a strip. Ring r consists of two
segments, one on each side (ring 0 of one), and so of up to four pieces and any number of whole
strips. Pieces are read again, from the L1 or L2 cache.

Whatever depends on rings is done for up to `rings` rings at once; longer paths need several steps.
The sums over pairs of rings cost the square of that number, and need no scan.

Each short row has a program of its own (`row_kernel`), which keeps the row's exponentials in
registers: a row is read from memory once (C elements) and its gradient is written once (C). Long
rows are split. `measure_kernel` reads strips and stores the log-sum of each; `resolve_kernel`, with
one program per row, turns them into the loss and the factors; `write_kernel` reads the strips
again, from the L2 cache if the launcher's chunk of rows fits there, and writes the gradient.
Besides, a row costs 8 bytes (with entropy 12) per strip and 36 bytes per interval, in float32.

There are no atomics: the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .log_sums import (
    LogSum,
    exp_of_difference,
    finite,
    log_one_plus_ratio,
    merge,
    merge_among,
    ratio,
)
from .rows_kernel import divided, number, times_incoming, weigh

__all__ = [
    "RING_FIELDS",
    "Cut",
    "PathTable",
    "Rows",
    "Settings",
    "measure_kernel",
    "resolve_kernel",
    "row_kernel",
    "write_kernel",
]

# ---- arguments of kernels: pointers, or None for a tensor that is not there ----


class Rows(NamedTuple):
    """Rows of logits, and where their gradients and losses go."""

    logits: Any
    grad: Any = None
    loss: Any = None


class PathTable(NamedTuple):
    """The tensors of a `hace_kernels.PathTable`."""

    ptr: Any
    start: Any
    stop: Any
    weight: Any
    order: Any = None


class Settings(NamedTuple):
    """The bits of float64 numbers, or None for 0; see `rows.bits`."""

    entropy: Any = None
    eps: Any = None


class Cut(NamedTuple):
    """How a row is cut, as constants of a kernel.

    Attributes:
        vector: a divisor of all row lengths and strides.
        strip: positions per strip.
        strips: the number of strips that a program handles together.
        fields: the number of values that are stored per strip where rows are split.
        rings: the number of rings that a program handles together.
        steps: the steps of a bisection among the intervals of the longest path.
    """

    vector: Any
    strip: Any
    strips: Any
    fields: Any
    rings: Any
    steps: Any


# Triton compiles a kernel again for some values of its integer arguments, but not of these. They
# are not in a tuple because Triton compiles for the values of all numbers in a tuple.
_SIZES = (
    "row_vectors", "column_vectors", "num_targets", "ignore_index", "ring_step", "first_row",
)  # fmt: skip

# ---- what functions pass to each other ----


class Row(NamedTuple):
    """One row: pointers to its logits, its gradient and the columns' order; number of columns."""

    logits: Any
    grad: Any
    order: Any
    columns: Any


class Path(NamedTuple):
    """The intervals of one target: pointers to the first, and how many there are."""

    start: Any
    stop: Any
    weight: Any
    length: Any


class Mass(NamedTuple):
    """A log-sum and its moment sum_j e^(z_j - max) (z_j - max), which the entropy term needs."""

    max: Any
    sum: Any
    moment: Any


class Strips(NamedTuple):
    """Strips in registers: their masses, the ring that each begins in, whether each is whole."""

    mass: Any
    ring: Any
    whole: Any


class Memory(NamedTuple):
    """A pointer to the values of several fields; each field begins `step` after the one before."""

    at: Any
    step: Any


class RowTerms(NamedTuple):
    """What the gradient needs to know of a row: its largest logit, and two numbers for entropy.

    Entropy adds slope e^(z_j - max) (z_j - max + middle) to the gradient.
    """

    max: Any
    slope: Any
    middle: Any


# Fields of each ring, in `Memory`: the log-sum of the ring, that of its interval, the factor of
# exp(z - max of the row), the factor of exp(z - max of the interval), and what is added to these.
_MAX = tl.constexpr(0)
_SUM = tl.constexpr(1)
_INSIDE_MAX = tl.constexpr(2)
_INSIDE_SUM = tl.constexpr(3)
_OF_ROW = tl.constexpr(4)
_OF_INTERVAL = tl.constexpr(5)
_OFFSET = tl.constexpr(6)
# The field of the row itself: `RowTerms` and the factor of the row's gradient.
_ROW = tl.constexpr(7)
_FIELDS = tl.constexpr(8)
RING_FIELDS = _FIELDS.value

_ONE = tl.constexpr(1)


# ---- targets and the weights of rows ----


@triton.jit
def _path_of(row, targets, table, num_targets, ignore_index):
    """Whether a row's target is valid or ignored, the target's path, and the row's weight."""
    t, valid, weight = weigh(row, row >= 0, targets, num_targets, ignore_index)
    first = tl.load(table.ptr + t, mask=valid, other=0)
    last = tl.load(table.ptr + t + 1, mask=valid, other=0)
    length = (last - first).to(tl.int32)
    path = Path(table.start + first, table.stop + first, table.weight + first, length)
    return valid | (weight == 0), path, weight


# ---- where positions lie on the path ----


@triton.jit
def _starts_after(position, path, cut):
    """How many intervals start after each position; starts never rise from entry to entry."""
    number_of = tl.zeros_like(position)
    for step in tl.static_range(cut.steps):
        more = number_of + (_ONE << (cut.steps - 1 - step))
        there = tl.load(path.start + more - 1, mask=more <= path.length, other=-1)
        number_of = tl.where(there > position, more, number_of)
    return number_of


@triton.jit
def _stops_by(position, path, cut):
    """How many intervals stop at or before each position; stops never fall from entry to entry."""
    number_of = tl.zeros_like(position)
    for step in tl.static_range(cut.steps):
        more = number_of + (_ONE << (cut.steps - 1 - step))
        there = tl.load(path.stop + more - 1, mask=more <= path.length, other=0x7FFFFFFF)
        number_of = tl.where(there <= position, more, number_of)
    return number_of


@triton.jit
def _ring_of_strips(strip, path, columns, cut):
    """The ring that each strip begins in, and whether it ends there too."""
    begin = strip * cut.strip
    last = tl.minimum(begin + cut.strip, columns) - 1
    after = _starts_after(begin, path, cut)
    by = _stops_by(begin, path, cut)
    whole = after == _starts_after(last, path, cut)
    whole &= by == _stops_by(last, path, cut)
    return tl.maximum(after, by), whole & (begin < columns)


@triton.jit
def _boundary(index, path, columns):
    """The boundary after segment `index`: all starts, the outermost first, and then all stops."""
    of_start = (index >= 0) & (index < path.length)
    of_stop = (index >= path.length) & (index < 2 * path.length)
    at = tl.load(path.start + path.length - 1 - index, mask=of_start, other=0)
    there = tl.load(path.stop + index - path.length, mask=of_stop, other=0)
    return tl.where(of_start, at, tl.where(of_stop, there, tl.where(index < 0, 0, columns)))


@triton.jit
def _pieces(first_ring, path, columns, cut):
    """The pieces of some rings as [begin, end), in one vector.

    First the heads of all rings' left segments, then the tails of these, then the heads and the
    tails of the right segments. Pieces that do not exist are empty.
    """
    lane = tl.arange(0, 4 * cut.rings)
    ring = first_ring + lane % cut.rings
    is_right = lane >= 2 * cut.rings
    is_tail = (lane // cut.rings) % 2 == 1
    segment = path.length + tl.where(is_right, ring, -ring)
    begin = _boundary(segment - 1, path, columns)
    end = _boundary(segment, path, columns)
    strip_end = (begin // cut.strip + 1) * cut.strip
    head_end = tl.minimum(strip_end, columns)
    tail = end // cut.strip * cut.strip
    is_head = (begin + cut.strip > strip_end) | (end < head_end)  # shorter than its strip
    exists = tl.where(is_tail, (tail >= strip_end) & (end < columns), is_head)
    exists = exists & (ring <= path.length) & ((ring > 0) | (is_right == 0))
    begin = tl.where(is_tail, tail, begin)
    end = tl.where(is_tail, end, tl.minimum(end, head_end))
    return begin, tl.where(exists, end, begin)


@triton.jit
def _at_positions(position, mask, order):
    """The columns at class positions."""
    column = position
    if order is not None:
        column = tl.load(order + position, mask=mask, other=0)
    return column


@triton.jit
def _load_pieces(begin, end, row, cut, work: tl.constexpr):
    position = (begin // cut.strip * cut.strip)[:, None] + tl.arange(0, cut.strip)[None, :]
    mask = (position >= begin[:, None]) & (position < end[:, None])
    column = _at_positions(position, mask, row.order)
    z = tl.load(row.logits + column, mask=mask, other=float("-inf")).to(work)
    return z, column, mask


# ---- masses ----


@triton.jit
def _measure(z, with_moment: tl.constexpr):
    """For every line of z: its mass, its logits relative to its max, and their exponentials."""
    top = tl.max(z, axis=1)
    gap = z - finite(top)[:, None]
    e = tl.exp(gap)
    total = tl.sum(e, axis=1)
    moment = tl.zeros_like(total)
    if with_moment:
        moment = tl.sum(tl.where(e == 0, 0.0, e * gap), axis=1)
    return Mass(top, total, moment), gap, e


@triton.jit
def _moment_at(mass, new_max):
    """The moment about another maximum; the gap may overflow between two finite numbers."""
    gap = tl.where(mass.sum == 0, 0.0, mass.max - new_max)
    e = tl.exp(gap)
    return tl.where(e == 0, 0.0, e * (mass.moment + gap * mass.sum))


@triton.jit
def _merge(a, b, with_moment: tl.constexpr):
    both = merge(a, b)
    moment = a.moment
    if with_moment:
        moment = _moment_at(a, finite(both.max)) + _moment_at(b, finite(both.max))
    return Mass(both.max, both.sum, moment)


@triton.jit
def _merge_all(mass, with_moment: tl.constexpr):
    """All masses along the first axis, merged."""
    best = tl.max(mass.max, axis=0)
    shift = finite(best)
    if len(mass.max.shape) == 2:
        shift = shift[None, :]
    total = tl.sum(mass.sum * tl.exp(mass.max - shift), axis=0)
    moment = total
    if with_moment:
        moment = tl.sum(_moment_at(mass, shift), axis=0)
    return Mass(best, total, moment)


@triton.jit
def _add_strips(so_far, ring, strips, with_moment: tl.constexpr):
    """Merges whole strips into the masses of their rings."""
    among = (strips.ring[None, :] == ring[:, None]) & strips.whole[None, :]
    more = merge_among(strips.mass, among)
    moment = so_far.moment
    if with_moment:
        each = strips.mass
        each = Mass(each.max[None, :], each.sum[None, :], each.moment[None, :])
        moved = _moment_at(each, finite(more.max)[:, None])
        moment = tl.sum(tl.where(among, moved, 0.0), axis=1)
    return _merge(so_far, Mass(more.max, more.sum, moment), with_moment)


@triton.jit
def _load_strips(strip, memory, path, columns, cut, with_moment: tl.constexpr):
    there = strip < memory.step
    top = tl.load(memory.at + strip, mask=there, other=float("-inf"))
    total = tl.load(memory.at + memory.step + strip, mask=there, other=0.0)
    moment = total
    if with_moment:
        moment = tl.load(memory.at + 2 * memory.step + strip, mask=there, other=0.0)
    ring, whole = _ring_of_strips(strip, path, columns, cut)
    return Strips(Mass(top, total, moment), ring, whole)


@triton.jit
def _ring_masses(
    first_ring, row, path, strips, cut,
    split: tl.constexpr, with_moment: tl.constexpr, work: tl.constexpr,
):  # fmt: skip
    """The mass of each ring: that of its whole strips and of its pieces."""
    ring = first_ring + tl.arange(0, cut.rings)
    zero = tl.zeros_like(ring).to(work)
    mass = Mass(zero + float("-inf"), zero, zero)
    if split:
        for first in tl.range(0, strips.step, cut.strips, num_stages=1):
            strip = first + tl.arange(0, cut.strips)
            some = _load_strips(strip, strips, path, row.columns, cut, with_moment)
            mass = _add_strips(mass, ring, some, with_moment)
    else:
        mass = _add_strips(mass, ring, strips, with_moment)
    begin, end = _pieces(first_ring, path, row.columns, cut)
    z, _, _ = _load_pieces(begin, end, row, cut, work)
    pieces, _, _ = _measure(z, with_moment)
    pieces = Mass(
        tl.reshape(pieces.max, (4, cut.rings)),
        tl.reshape(pieces.sum, (4, cut.rings)),
        tl.reshape(pieces.moment, (4, cut.rings)),
    )
    return _merge(mass, _merge_all(pieces, with_moment), with_moment)


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
        own = _ring_masses(first, row, path, strips, cut, split, with_moment, work)
        inside = merge(merge_among(own, ring[None, :] <= ring[:, None]), everything)
        w = tl.load(path.weight + ring, mask=ring < path.length, other=0.0).to(work)
        of_row = weights + tl.sum(tl.where(ring[None, :] < ring[:, None], w[None, :], 0.0), axis=1)
        weights += tl.sum(w, axis=0)
        there = ring <= path.length
        tl.store(rings.at + _MAX * rings.step + ring, own.max, mask=there)
        tl.store(rings.at + _SUM * rings.step + ring, own.sum, mask=there)
        tl.store(rings.at + _INSIDE_MAX * rings.step + ring, inside.max, mask=there)
        tl.store(rings.at + _INSIDE_SUM * rings.step + ring, inside.sum, mask=there)
        tl.store(rings.at + _OF_ROW * rings.step + ring, of_row, mask=there)
        everything = _merge(everything, _merge_all(own, with_moment), with_moment)
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
        tl.load(rings.at + _INSIDE_MAX * rings.step + ring, mask=there, other=float("-inf")),
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
    total = tl.sum(own.sum * tl.exp(own.max - finite(best)), axis=0)
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
        of_row = tl.load(rings.at + _OF_ROW * rings.step + ring, mask=there, other=0.0)
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
        tl.store(rings.at + _OF_ROW * rings.step + ring, of_row * scale, mask=there)
        tl.store(rings.at + _OF_INTERVAL * rings.step + ring, b, mask=there)
        tl.store(rings.at + _OFFSET * rings.step + ring, added * factor.to(work), mask=there)
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
        tl.store(rings.at + _OF_ROW * rings.step + ring, c * p, mask=there)
        tl.store(rings.at + _OF_INTERVAL * rings.step + ring, pushed, mask=there)
        tl.store(rings.at + _OFFSET * rings.step + ring, tl.zeros_like(w), mask=there)
    tl.debug_barrier()
    for first in tl.range(0, path.length + 1, cut.rings, num_stages=1):
        ring = first + lane
        there = ring <= path.length
        pull = tl.load(rings.at + _OF_ROW * rings.step + ring, mask=there, other=0.0)
        pushed = tl.load(rings.at + _OF_INTERVAL * rings.step + ring, mask=there, other=0.0)
        pulled = tl.where(ring[None, :] < ring[:, None], pull[None, :], 0.0)
        of_row = (inner + tl.sum(pulled, axis=1) + pushed) * scale
        inner += tl.sum(pull, axis=0)
        tl.debug_barrier()
        tl.store(rings.at + _OF_ROW * rings.step + ring, of_row, mask=there)
        tl.store(rings.at + _OF_INTERVAL * rings.step + ring, tl.zeros_like(pull), mask=there)
    tl.debug_barrier()
    return loss


@triton.jit
def _resolve(row, path, strips, rings, factor, settings, cut, split: tl.constexpr):
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


# ---- gradient ----


@triton.jit
def _strip_gradient(gap, e, top, strips, rings, terms, with_entropy: tl.constexpr):
    """The gradient of whole strips, from their exponentials relative to their maxima."""
    ring, whole = strips.ring, strips.whole
    of_row = tl.load(rings.at + _OF_ROW * rings.step + ring, mask=whole, other=0.0)
    of_interval = tl.load(rings.at + _OF_INTERVAL * rings.step + ring, mask=whole, other=0.0)
    inside_max = tl.load(rings.at + _INSIDE_MAX * rings.step + ring, mask=whole, other=0.0)
    offset = tl.load(rings.at + _OFFSET * rings.step + ring, mask=whole, other=0.0)
    to_row = exp_of_difference(top, terms.max)
    of_strip = of_row * to_row - of_interval * tl.exp(top - finite(inside_max))
    g = of_strip[:, None] * e
    if with_entropy:
        below = tl.where(to_row == 0, 0.0, finite(top) - terms.max + terms.middle)
        more = (terms.slope * to_row)[:, None] * e * (gap + below[:, None])
        g += tl.where(e == 0, 0.0, more)
    return g + offset[:, None]


@triton.jit
def _write_pieces(row, path, rings, terms, factor, cut, with_entropy: tl.constexpr):
    work: tl.constexpr = rings.at.dtype.element_ty
    for first in tl.range(0, path.length + 1, cut.rings, num_stages=1):
        begin, end = _pieces(first, path, row.columns, cut)
        z, column, mask = _load_pieces(begin, end, row, cut, work)
        ring = first + tl.arange(0, 4 * cut.rings) % cut.rings
        there = begin < end
        of_row = tl.load(rings.at + _OF_ROW * rings.step + ring, mask=there, other=0.0)
        of_interval = tl.load(rings.at + _OF_INTERVAL * rings.step + ring, mask=there, other=0.0)
        inside_max = tl.load(rings.at + _INSIDE_MAX * rings.step + ring, mask=there, other=0.0)
        offset = tl.load(rings.at + _OFFSET * rings.step + ring, mask=there, other=0.0)
        inside_max = finite(inside_max)
        to_row = exp_of_difference(inside_max, terms.max)
        e = tl.exp(z - inside_max[:, None])
        g = (of_row * to_row - of_interval)[:, None] * e
        if with_entropy:
            of_all = to_row[:, None] * e
            more = terms.slope * of_all * (z - terms.max + terms.middle)
            g += tl.where(of_all == 0, 0.0, more)
        g = tl.where(factor == 0, 0.0, g + offset[:, None])
        tl.store(row.grad + column, g.to(row.grad.dtype.element_ty), mask=mask)


# ---- kernels ----


@triton.jit
def _row_at(row, rows, order, row_vectors, column_vectors, cut):
    """The `Row` with the number `row`."""
    columns = column_vectors * cut.vector
    grad = rows.grad
    if rows.grad is not None:
        grad = rows.grad + row * columns
    return Row(rows.logits + row * row_vectors * cut.vector, grad, order, columns)


@triton.jit
def _open_row(row, targets, table, num_targets, ignore_index):
    """The row's path, the weight of its loss, and the factor of its gradient.

    Both numbers are NaN if the target is not valid.
    """
    valid, path, counts_for = _path_of(row, targets, table, num_targets, ignore_index)
    some = path.length > 0
    start = tl.load(path.start, mask=some, other=0)
    is_empty = start >= tl.load(path.stop, mask=some, other=1)
    factor = times_incoming(row, divided(counts_for, targets.divisor), targets)
    bad = (valid == 0) | is_empty
    counts_for = tl.where(bad & (counts_for != 0), float("nan"), counts_for)
    factor = tl.where(bad & (factor != 0), float("nan"), factor)
    return path, counts_for, factor


@triton.jit
def _store_loss(row, loss, counts_for, row_loss):
    weighted = counts_for * loss.to(tl.float64)
    weighted = tl.where(counts_for != 0, weighted, 0.0)
    tl.store(row_loss + row, weighted.to(row_loss.dtype.element_ty))


@triton.jit(do_not_specialize=_SIZES)
def row_kernel(
    rows, targets, table, rings, row_vectors, column_vectors, num_targets, ignore_index, ring_step,
    settings, cut,
):  # fmt: skip
    """Loss and gradient of rows of at most cut.strip * cut.strips columns. One program per row."""
    number_of = tl.program_id(0).to(tl.int64)
    row = _row_at(number_of, rows, table.order, row_vectors, column_vectors, cut)
    memory = Memory(rings + number_of * ring_step * _FIELDS, ring_step)
    path, counts_for, factor = _open_row(number_of, targets, table, num_targets, ignore_index)
    has_entropy: tl.constexpr = settings.entropy is not None

    strip = tl.arange(0, cut.strips)
    position = strip[:, None] * cut.strip + tl.arange(0, cut.strip)[None, :]
    in_row = position < row.columns
    column = _at_positions(position, in_row, row.order)
    read = position < tl.where(factor != 0, row.columns, 0)
    z = tl.load(row.logits + column, mask=read, other=float("-inf"))
    mass, gap, e = _measure(z.to(rings.dtype.element_ty), has_entropy)
    ring, whole = _ring_of_strips(strip, path, row.columns, cut)
    strips = Strips(mass, ring, whole)
    loss, terms = _resolve(row, path, strips, memory, factor, settings, cut, False)
    if rows.loss is not None:
        _store_loss(number_of, loss, counts_for, rows.loss)
    if rows.grad is not None:
        g = _strip_gradient(gap, e, mass.max, strips, memory, terms, has_entropy)
        g = tl.where(factor == 0, 0.0, g).to(row.grad.dtype.element_ty)
        # Computed again rather than kept, because this kernel is short of registers.
        column = _at_positions(position, in_row & whole[:, None], row.order)
        tl.store(row.grad + column, g, mask=in_row & whole[:, None])
        _write_pieces(row, path, memory, terms, factor, cut, has_entropy)


@triton.jit(do_not_specialize=_SIZES)
def measure_kernel(
    rows, target, order, strips, row_vectors, column_vectors, ignore_index, first_row, cut,
):  # fmt: skip
    """Stores the masses of a row's strips, cut.strips of them per program."""
    slot = tl.program_id(1).to(tl.int64)
    row = _row_at(slot + first_row, rows, order, row_vectors, column_vectors, cut)
    num_strips = tl.cdiv(row.columns, cut.strip)
    strip = tl.program_id(0) * cut.strips + tl.arange(0, cut.strips)
    position = strip[:, None] * cut.strip + tl.arange(0, cut.strip)[None, :]
    counts = tl.load(target + slot + first_row) != ignore_index
    mask = position < tl.where(counts, row.columns, 0)
    column = _at_positions(position, mask, order)
    z = tl.load(row.logits + column, mask=mask, other=float("-inf"))
    mass, _, _ = _measure(z.to(strips.dtype.element_ty), cut.fields == 3)
    strips += slot * num_strips * cut.fields
    tl.store(strips + strip, mass.max, mask=strip < num_strips)
    tl.store(strips + num_strips + strip, mass.sum, mask=strip < num_strips)
    if cut.fields == 3:
        tl.store(strips + 2 * num_strips + strip, mass.moment, mask=strip < num_strips)


@triton.jit(do_not_specialize=_SIZES)
def resolve_kernel(
    rows, targets, table, rings, strips, row_vectors, column_vectors, num_targets, ignore_index,
    ring_step, first_row, settings, cut,
):  # fmt: skip
    """A row's loss, rings' coefficients, and the gradient of its pieces. One program per row."""
    slot = tl.program_id(0).to(tl.int64)
    number_of = slot + first_row
    row = _row_at(number_of, rows, table.order, row_vectors, column_vectors, cut)
    memory = Memory(rings + slot * ring_step * _FIELDS, ring_step)
    num_strips = tl.cdiv(row.columns, cut.strip)
    measured = Memory(strips + slot * num_strips * cut.fields, num_strips)
    path, counts_for, factor = _open_row(number_of, targets, table, num_targets, ignore_index)
    loss, terms = _resolve(row, path, measured, memory, factor, settings, cut, True)
    of_row = memory.at + _ROW * ring_step
    tl.store(of_row, terms.max)
    tl.store(of_row + 1, terms.slope)
    tl.store(of_row + 2, terms.middle)
    tl.store(of_row + 3, factor.to(rings.dtype.element_ty))
    if rows.loss is not None:
        _store_loss(number_of, loss, counts_for, rows.loss)
    if rows.grad is not None:
        has_entropy: tl.constexpr = settings.entropy is not None
        _write_pieces(row, path, memory, terms, factor, cut, has_entropy)


@triton.jit(do_not_specialize=_SIZES)
def write_kernel(
    rows, targets, table, rings, strips, row_vectors, column_vectors, num_targets, ignore_index,
    ring_step, first_row, cut,
):  # fmt: skip
    """The gradient of a row's whole strips, cut.strips strips per program."""
    slot = tl.program_id(1).to(tl.int64)
    row = _row_at(slot + first_row, rows, table.order, row_vectors, column_vectors, cut)
    num_strips = tl.cdiv(row.columns, cut.strip)
    memory = Memory(rings + slot * ring_step * _FIELDS, ring_step)
    _, path, _ = _path_of(slot + first_row, targets, table, num_targets, ignore_index)
    strip = tl.program_id(0) * cut.strips + tl.arange(0, cut.strips)
    ring, whole = _ring_of_strips(strip, path, row.columns, cut)
    of_row = memory.at + _ROW * ring_step
    terms = RowTerms(tl.load(of_row), tl.load(of_row + 1), tl.load(of_row + 2))
    factor = tl.load(of_row + 3)
    strips += slot * num_strips * cut.fields
    top = tl.load(strips + strip, mask=strip < num_strips, other=float("-inf"))
    position = strip[:, None] * cut.strip + tl.arange(0, cut.strip)[None, :]
    in_row = position < row.columns
    column = _at_positions(position, in_row, row.order)
    read = position < tl.where(factor != 0, row.columns, 0)
    z = tl.load(row.logits + column, mask=read, other=float("-inf"))
    gap = z.to(strips.dtype.element_ty) - finite(top)[:, None]
    found = Strips(None, ring, whole)
    g = _strip_gradient(gap, tl.exp(gap), top, found, memory, terms, cut.fields == 3)
    g = tl.where(factor == 0, 0.0, g).to(row.grad.dtype.element_ty)
    tl.store(row.grad + column, g, mask=in_row & whole[:, None])
