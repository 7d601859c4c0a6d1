"""The kernels of `path_log_loss`.

csrc/cpu/path_log_loss_kernel.cpp derives the gradient that is computed here. With lse_r over
interval r, lse_K over the whole row, and j in ring r (what interval r adds to the one inside it):

    dL/dz_j = A_r exp(z_j - lse_K) - B_r exp(z_j - lse_r)
    A_r     = sum_{i < r} w_i
    B_r     = sum_{i >= r} w_i (1 - P_i) exp(lse_r - lse_i)

A row is cut into *strips* of STRIP class positions. A strip within one ring is *whole*: it takes
its exponentials relative to its own largest logit, so that nothing underflows, whatever the gaps
between rings, and its gradient is one factor times these. So an element costs the same however
long the paths are; where a strip lies is searched for in the path once a strip, by bisection.

Between a strip and an interval's end lie *pieces*, shorter than a strip: of each of the segments
that the intervals' ends cut the row into, the first part up to a strip's end and the last part from
a strip's begin. Ring r is made of two segments, one on each side (ring 0 of one), and so of four
pieces and any number of whole strips. Pieces are read again, from the L1 or L2 cache.

All that depends on rings is done with a vector of up to RINGS rings; longer paths take it in steps.
The sums over pairs of rings cost RINGS^2, and need no scan.

Short rows (`row_kernel`) have a program each, which keeps the row's exponentials in registers: a
row is read from memory once (C elements) and its gradient written once (C). Long rows are split:
`measure_kernel` reads strips and leaves (top, total) of each, `resolve_kernel` makes loss and
factors of them, one program a row, and `write_kernel` reads the strips again, from the L2 cache if
the launcher's chunk of rows fits there, and writes the gradient. Besides that a row costs 8 bytes
(with entropy 12) a strip and 36 bytes an interval, in float32.

There are no atomics: the same input gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .log_sums import finite, log_one_plus_ratio, merge, merge_among, ratio
from .rows_kernel import divided, number, times_incoming, weigh

__all__ = [
    "RING_FIELDS",
    "measure_kernel",
    "resolve_kernel",
    "row_kernel",
    "write_kernel",
]

# What is kept of every ring, each as a vector: its own mass, its interval's, what multiplies
# exp(z - top of the row), what multiplies exp(z - top of the interval), and what is added.
_TOP = tl.constexpr(0)
_TOTAL = tl.constexpr(1)
_INSIDE_TOP = tl.constexpr(2)
_INSIDE_TOTAL = tl.constexpr(3)
_OF_ROW = tl.constexpr(4)
_OF_INTERVAL = tl.constexpr(5)
_OFFSET = tl.constexpr(6)
# Of the row: its largest logit, and with entropy the slope and middle of what it adds.
_ROW = tl.constexpr(7)
_FIELDS = tl.constexpr(8)
RING_FIELDS = _FIELDS.value

# Numbers whose values are no reason to compile again.
_SIZES = (
    "row_vectors", "column_vectors", "grad_loss_step", "num_targets", "ignore_index", "ring_step",
    "entropy_bits", "eps_bits", "first_row", "strip_step",
)  # fmt: skip


# ---- targets and what rows count for ----


@triton.jit
def _target(row, mask, target, ptr, target_weight, num_targets, ignore_index):
    """Whether rows' targets are valid, their entries, and what they count for (0 if ignored)."""
    t, valid, weight = weigh(row, mask, target, target_weight, num_targets, ignore_index)
    first = tl.load(ptr + t, mask=valid, other=0)
    last = tl.load(ptr + t + 1, mask=valid, other=0)
    return valid | (weight == 0), first, (last - first).to(tl.int32), weight


# ---- where positions lie on the path ----


@triton.jit
def _starts_after(position, start, num_intervals, STEPS: tl.constexpr):
    """How many intervals start after each position; starts fall from entry to entry."""
    count = tl.zeros_like(position)
    for step in tl.static_range(STEPS):
        more = count + (1 << (STEPS - 1 - step))
        there = tl.load(start + more - 1, mask=more <= num_intervals, other=-1)
        count = tl.where(there > position, more, count)
    return count


@triton.jit
def _stops_by(position, stop, num_intervals, STEPS: tl.constexpr):
    """How many intervals stop at or before each position; stops rise from entry to entry."""
    count = tl.zeros_like(position)
    for step in tl.static_range(STEPS):
        more = count + (1 << (STEPS - 1 - step))
        there = tl.load(stop + more - 1, mask=more <= num_intervals, other=0x7FFFFFFF)
        count = tl.where(there <= position, more, count)
    return count


@triton.jit
def _ring_of_strips(
    strip, start, stop, num_intervals, columns, STRIP: tl.constexpr, STEPS: tl.constexpr
):
    """The ring that each strip begins in, and whether it ends there too."""
    begin = strip * STRIP
    last = tl.minimum(begin + STRIP, columns) - 1
    after = _starts_after(begin, start, num_intervals, STEPS)
    by = _stops_by(begin, stop, num_intervals, STEPS)
    whole = after == _starts_after(last, start, num_intervals, STEPS)
    whole &= by == _stops_by(last, stop, num_intervals, STEPS)
    return tl.maximum(after, by), whole & (begin < columns)


@triton.jit
def _boundary(index, start, stop, num_intervals, columns):
    """Segment s lies between boundaries s - 1 and s: all starts, the outermost first, all stops."""
    of_start = (index >= 0) & (index < num_intervals)
    of_stop = (index >= num_intervals) & (index < 2 * num_intervals)
    at = tl.load(start + num_intervals - 1 - index, mask=of_start, other=0)
    there = tl.load(stop + index - num_intervals, mask=of_stop, other=0)
    return tl.where(of_start, at, tl.where(of_stop, there, tl.where(index < 0, 0, columns)))


@triton.jit
def _pieces(
    first_ring, start, stop, num_intervals, columns, STRIP: tl.constexpr, RINGS: tl.constexpr
):
    """The pieces of RINGS rings as [begin, end): all left heads, left tails, right heads, tails."""
    lane = tl.arange(0, 4 * RINGS)
    ring = first_ring + lane % RINGS
    is_right = lane >= 2 * RINGS
    is_tail = (lane // RINGS) % 2 == 1
    segment = num_intervals + tl.where(is_right, ring, -ring)
    begin = _boundary(segment - 1, start, stop, num_intervals, columns)
    end = _boundary(segment, start, stop, num_intervals, columns)
    strip_end = (begin // STRIP + 1) * STRIP
    head_end = tl.minimum(strip_end, columns)
    tail = end // STRIP * STRIP
    is_head = (begin + STRIP > strip_end) | (end < head_end)  # less than its strip
    exists = tl.where(is_tail, (tail >= strip_end) & (end < columns), is_head)
    exists = exists & (ring <= num_intervals) & ((ring > 0) | (is_right == 0))
    begin = tl.where(is_tail, tail, begin)
    end = tl.where(is_tail, end, tl.minimum(end, head_end))
    return begin, tl.where(exists, end, begin)


@triton.jit
def _at_positions(position, mask, order):
    """The columns of class positions."""
    column = position
    if order is not None:
        column = tl.load(order + position, mask=mask, other=0)
    return column


@triton.jit
def _load_pieces(begin, end, logits, order, work: tl.constexpr, STRIP: tl.constexpr):
    position = (begin // STRIP * STRIP)[:, None] + tl.arange(0, STRIP)[None, :]
    mask = (position >= begin[:, None]) & (position < end[:, None])
    column = _at_positions(position, mask, order)
    z = tl.load(logits + column, mask=mask, other=float("-inf")).to(work)
    return z, column, mask


# ---- masses ----


@triton.jit
def _measure(z, with_moment: tl.constexpr):
    """(top, total) of every line of z, its logits relative to its top, and their exponentials."""
    top = tl.max(z, axis=1)
    gap = z - finite(top)[:, None]
    e = tl.exp(gap)
    total = tl.sum(e, axis=1)
    moment = tl.zeros_like(total)
    if with_moment:
        moment = tl.sum(tl.where(e == 0, 0.0, e * gap), axis=1)
    return top, total, moment, gap, e


@triton.jit
def _moment_at(top, total, moment, new_top):
    """sum e^(z - t) (z - t) for another t; the gap may be infinite between finite numbers."""
    gap = tl.where(total == 0, 0.0, top - new_top)
    e = tl.exp(gap)
    return tl.where(e == 0, 0.0, e * (moment + gap * total))


@triton.jit
def _add_strips(
    sums_top, sums_total, sums_moment, ring, top, total, moment, of_ring, whole,
    with_moment: tl.constexpr,
):  # fmt: skip
    """Merges whole strips into the sums of their rings."""
    among = (of_ring[None, :] == ring[:, None]) & whole[None, :]
    more_top, more_total = merge_among(top, total, among)
    if with_moment:
        moved = _moment_at(top[None, :], total[None, :], moment[None, :], finite(more_top)[:, None])
        more_moment = tl.sum(tl.where(among, moved, 0.0), axis=1)
    else:
        more_moment = sums_moment
    return _merge3(
        sums_top, sums_total, sums_moment, more_top, more_total, more_moment, with_moment
    )


@triton.jit
def _merge3(a_top, a_total, a_moment, b_top, b_total, b_moment, with_moment: tl.constexpr):
    top, total = merge(a_top, a_total, b_top, b_total)
    moment = a_moment
    if with_moment:
        moment = _moment_at(a_top, a_total, a_moment, finite(top))
        moment += _moment_at(b_top, b_total, b_moment, finite(top))
    return top, total, moment


@triton.jit
def _ring_masses(
    first_ring, logits, order, start, stop, num_intervals, columns,
    top, total, moment, of_ring, whole, strips, strip_step, num_strips,
    STRIP: tl.constexpr, STRIPS: tl.constexpr, STEPS: tl.constexpr,
    RINGS: tl.constexpr, SPLIT: tl.constexpr, with_moment: tl.constexpr, work: tl.constexpr,
):  # fmt: skip
    """(top, total, moment) of each ring: of its whole strips and of its four pieces."""
    ring = first_ring + tl.arange(0, RINGS)
    zero = tl.zeros_like(ring).to(work)
    a, b, c = zero + float("-inf"), zero, zero
    if SPLIT:
        for first in tl.range(0, num_strips, STRIPS, num_stages=1):
            strip = first + tl.arange(0, STRIPS)
            there = strip < num_strips
            of, is_whole = _ring_of_strips(strip, start, stop, num_intervals, columns, STRIP, STEPS)
            tops = tl.load(strips + strip, mask=there, other=float("-inf"))
            totals = tl.load(strips + strip_step + strip, mask=there, other=0.0)
            moments = totals
            if with_moment:
                moments = tl.load(strips + 2 * strip_step + strip, mask=there, other=0.0)
            a, b, c = _add_strips(a, b, c, ring, tops, totals, moments, of, is_whole, with_moment)
    else:
        a, b, c = _add_strips(a, b, c, ring, top, total, moment, of_ring, whole, with_moment)
    begin, end = _pieces(first_ring, start, stop, num_intervals, columns, STRIP, RINGS)
    z, _, _ = _load_pieces(begin, end, logits, order, work, STRIP)
    more_top, more_total, more_moment, _, _ = _measure(z, with_moment)
    more_top = tl.reshape(more_top, (4, RINGS))
    more_total = tl.reshape(more_total, (4, RINGS))
    best = tl.max(more_top, axis=0)
    if with_moment:
        more_moment = _moment_at(
            more_top, more_total, tl.reshape(more_moment, (4, RINGS)), finite(best)[None, :]
        )
        more_moment = tl.sum(more_moment, axis=0)
    else:
        more_moment = best
    more_total = tl.sum(more_total * tl.exp(more_top - finite(best)[None, :]), axis=0)
    return _merge3(a, b, c, best, more_total, more_moment, with_moment)


@triton.jit
def _resolve(
    factor, logits, order, start, stop, weight, num_intervals, columns, rings, ring_step,
    top, total, moment, of_ring, whole, strips, strip_step, num_strips, entropy, eps,
    STRIP: tl.constexpr, STRIPS: tl.constexpr, RINGS: tl.constexpr, STEPS: tl.constexpr,
    SPLIT: tl.constexpr, HAS_ENTROPY: tl.constexpr, HAS_EPS: tl.constexpr,
):  # fmt: skip
    """From strips and pieces to the row's loss and to every ring's coefficients, in `rings`."""
    work: tl.constexpr = rings.dtype.element_ty
    minus_infinity = tl.full((), float("-inf"), work)
    zero = tl.full((), 0.0, work)
    lane = tl.arange(0, RINGS)

    # From the inside out: masses, the intervals' masses, and A.
    all_top, all_total, all_moment, inner = minus_infinity, zero, zero, zero
    for first in tl.range(0, num_intervals + 1, RINGS, num_stages=1):
        ring = first + lane
        ring_top, ring_total, ring_moment = _ring_masses(
            first, logits, order, start, stop, num_intervals, columns,
            top, total, moment, of_ring, whole, strips, strip_step, num_strips,
            STRIP, STRIPS, STEPS, RINGS, SPLIT, HAS_ENTROPY, work,
        )  # fmt: skip
        inside_top, inside_total = merge_among(ring_top, ring_total, ring[None, :] <= ring[:, None])
        inside_top, inside_total = merge(inside_top, inside_total, all_top, all_total)
        w = tl.load(weight + ring, mask=ring < num_intervals, other=0.0).to(work)
        of_row = inner + tl.sum(tl.where(ring[None, :] < ring[:, None], w[None, :], 0.0), axis=1)
        inner += tl.sum(w, axis=0)
        there = ring <= num_intervals
        tl.store(rings + _TOP * ring_step + ring, ring_top, mask=there)
        tl.store(rings + _TOTAL * ring_step + ring, ring_total, mask=there)
        tl.store(rings + _INSIDE_TOP * ring_step + ring, inside_top, mask=there)
        tl.store(rings + _INSIDE_TOTAL * ring_step + ring, inside_total, mask=there)
        tl.store(rings + _OF_ROW * ring_step + ring, of_row, mask=there)
        tile_top = tl.max(ring_top, axis=0)
        tile_total = tl.sum(ring_total * tl.exp(ring_top - finite(tile_top)), axis=0)
        tile_moment = zero
        if HAS_ENTROPY:
            tile_moment = tl.sum(
                _moment_at(ring_top, ring_total, ring_moment, finite(tile_top)), axis=0
            )
        all_top, all_total, all_moment = _merge3(
            all_top, all_total, all_moment, tile_top, tile_total, tile_moment, HAS_ENTROPY
        )
    tl.debug_barrier()

    # From the outside in: what is outside each interval, the loss, B and the offsets.
    scale = factor.to(work) / all_total
    scale = tl.where(all_total > 0, scale, float("nan"))
    loss, offset, outer = zero, zero, zero
    out_top, out_total = minus_infinity, zero
    next_top, next_total, next_b = zero, zero + 1, zero
    for step in tl.range(0, num_intervals // RINGS + 1, num_stages=1):
        ring = (num_intervals // RINGS - step) * RINGS + lane
        there = ring <= num_intervals
        is_interval = ring < num_intervals
        ring_top = tl.load(rings + _TOP * ring_step + ring, mask=there, other=float("-inf"))
        ring_total = tl.load(rings + _TOTAL * ring_step + ring, mask=there, other=0.0)
        inside_top = tl.load(
            rings + _INSIDE_TOP * ring_step + ring, mask=there, other=float("-inf")
        )
        inside_total = tl.load(rings + _INSIDE_TOTAL * ring_step + ring, mask=there, other=0.0)
        of_row = tl.load(rings + _OF_ROW * ring_step + ring, mask=there, other=0.0)
        w = tl.load(weight + ring, mask=is_interval, other=0.0).to(work)

        outside_top, outside_total = merge_among(
            ring_top, ring_total, ring[None, :] > ring[:, None]
        )
        outside_top, outside_total = merge(outside_top, outside_total, out_top, out_total)
        tile_top = tl.max(ring_top, axis=0)
        tile_total = tl.sum(ring_total * tl.exp(ring_top - finite(tile_top)), axis=0)
        out_top, out_total = merge(out_top, out_total, tile_top, tile_total)

        from_inside = ring[None, :] >= ring[:, None]
        if HAS_EPS:
            # With c_i = w_i / (P_i + eps): dL/dz_j = p_j (sum_{i < r} c_i P_i
            # - sum_{i >= r} c_i (1 - P_i)); the first sum is still to come.
            p = ratio(inside_top, inside_total, all_top, all_total)
            c = tl.where(is_interval, w / (p + eps.to(work)), 0.0)
            loss -= tl.sum(tl.where(is_interval, w * tl.log(p + eps.to(work)), 0.0), axis=0)
            lost = c * ratio(outside_top, outside_total, all_top, all_total)
            of_row = c * p
            b = outer - tl.sum(tl.where(from_inside, lost[None, :], 0.0), axis=1)
            outer -= tl.sum(lost, axis=0)
            added = tl.zeros_like(w)
        else:
            # Intervals without mass: the loss is infinite, and the gradient's second sum is the
            # weight spread evenly over the interval's columns.
            alive = is_interval & (inside_total != 0)
            dead = is_interval & (inside_total == 0)
            log_p = log_one_plus_ratio(outside_top, outside_total, inside_top, inside_total)
            terms = tl.where(alive, w * log_p, 0.0)
            loss += tl.sum(tl.where(dead, w * float("inf"), terms), axis=0)
            q = ratio(outside_top, outside_total, inside_top, inside_total)
            lost = tl.where(alive, w * tl.where(q < 1e30, q / (1 + q), 1.0), 0.0)
            shares = ratio(
                inside_top[:, None], inside_total[:, None],
                inside_top[None, :], inside_total[None, :],
            )  # fmt: skip
            shares = tl.where(from_inside & alive[None, :], shares, 0.0)
            b = tl.sum(shares * lost[None, :], axis=1)
            if next_b != 0:
                b += next_b * ratio(inside_top, inside_total, next_top, next_total)
            at_begin = lane == 0
            next_top = tl.sum(tl.where(at_begin, inside_top, 0.0), axis=0)
            next_total = tl.sum(tl.where(at_begin, inside_total, 0.0), axis=0)
            next_b = tl.sum(tl.where(at_begin, b, 0.0), axis=0)

            width = tl.load(stop + ring, mask=is_interval, other=1)
            width -= tl.load(start + ring, mask=is_interval, other=0)
            spread = tl.where(dead, w / width.to(work), 0.0)
            added = offset - tl.sum(tl.where(from_inside, spread[None, :], 0.0), axis=1)
            offset -= tl.sum(spread, axis=0)
            of_row *= scale
            b = tl.where(inside_total != 0, b * factor.to(work) / inside_total, tl.zeros_like(b))
        tl.store(rings + _OF_ROW * ring_step + ring, of_row, mask=there)
        tl.store(rings + _OF_INTERVAL * ring_step + ring, b, mask=there)
        tl.store(rings + _OFFSET * ring_step + ring, added * factor.to(work), mask=there)
    tl.debug_barrier()

    if HAS_EPS:
        inner = zero
        for first in tl.range(0, num_intervals + 1, RINGS, num_stages=1):
            ring = first + lane
            there = ring <= num_intervals
            pull = tl.load(rings + _OF_ROW * ring_step + ring, mask=there, other=0.0)
            pushed = tl.load(rings + _OF_INTERVAL * ring_step + ring, mask=there, other=0.0)
            pulled = tl.where(ring[None, :] < ring[:, None], pull[None, :], 0.0)
            of_row = (inner + tl.sum(pulled, axis=1) + pushed) * scale
            inner += tl.sum(pull, axis=0)
            tl.debug_barrier()
            tl.store(rings + _OF_ROW * ring_step + ring, of_row, mask=there)
            tl.store(rings + _OF_INTERVAL * ring_step + ring, tl.zeros_like(pull), mask=there)
        tl.debug_barrier()

    slope, middle = zero, zero
    if HAS_ENTROPY:
        # sum_j p_j log p_j, and log p_j less it: z_j - top + middle.
        negative_entropy = all_moment / all_total - tl.log(all_total)
        loss += entropy.to(work) * negative_entropy
        slope = entropy.to(work) * scale
        middle = -tl.log(all_total) - negative_entropy
    loss = tl.where(all_total > 0, loss, float("nan"))
    return loss, finite(all_top), slope, middle


# ---- gradient ----


@triton.jit
def _strip_gradient(
    gap, e, top, of_ring, whole, rings, ring_step, row_top, slope, middle,
    HAS_ENTROPY: tl.constexpr,
):  # fmt: skip
    """The gradient in whole strips, from their exponentials relative to their tops."""
    of_row = tl.load(rings + _OF_ROW * ring_step + of_ring, mask=whole, other=0.0)
    of_interval = tl.load(rings + _OF_INTERVAL * ring_step + of_ring, mask=whole, other=0.0)
    inside_top = tl.load(rings + _INSIDE_TOP * ring_step + of_ring, mask=whole, other=0.0)
    offset = tl.load(rings + _OFFSET * ring_step + of_ring, mask=whole, other=0.0)
    to_row = tl.exp(top - row_top)
    of_strip = of_row * to_row - of_interval * tl.exp(top - finite(inside_top))
    g = of_strip[:, None] * e
    if HAS_ENTROPY:
        below = tl.where(to_row == 0, 0.0, finite(top) - row_top + middle)
        g += tl.where(e == 0, 0.0, (slope * to_row)[:, None] * e * (gap + below[:, None]))
    return g + offset[:, None]


@triton.jit
def _write_pieces(
    factor, logits, grad, order, start, stop, num_intervals, columns, rings, ring_step,
    row_top, slope, middle,
    STRIP: tl.constexpr, RINGS: tl.constexpr, HAS_ENTROPY: tl.constexpr,
):  # fmt: skip
    work: tl.constexpr = rings.dtype.element_ty
    for first in tl.range(0, num_intervals + 1, RINGS, num_stages=1):
        begin, end = _pieces(first, start, stop, num_intervals, columns, STRIP, RINGS)
        z, column, mask = _load_pieces(begin, end, logits, order, work, STRIP)
        ring = first + tl.arange(0, 4 * RINGS) % RINGS
        there = begin < end
        of_row = tl.load(rings + _OF_ROW * ring_step + ring, mask=there, other=0.0)
        of_interval = tl.load(rings + _OF_INTERVAL * ring_step + ring, mask=there, other=0.0)
        inside_top = tl.load(rings + _INSIDE_TOP * ring_step + ring, mask=there, other=0.0)
        offset = tl.load(rings + _OFFSET * ring_step + ring, mask=there, other=0.0)
        inside_top = finite(inside_top)
        to_row = tl.exp(inside_top - row_top)
        e = tl.exp(z - inside_top[:, None])
        g = (of_row * to_row - of_interval)[:, None] * e
        if HAS_ENTROPY:
            of_all = to_row[:, None] * e
            g += tl.where(of_all == 0, 0.0, slope * of_all * (z - row_top + middle))
        g = tl.where(factor == 0, 0.0, g + offset[:, None])
        tl.store(grad + column, g.to(grad.dtype.element_ty), mask=mask)


# ---- kernels ----


@triton.jit
def _open_row(row, target, ptr, start, stop, weight, target_weight, divisor, grad_loss,
              grad_loss_step, num_targets, ignore_index):  # fmt: skip
    """The row's path, what its loss counts for, and the factor of its gradient (NaN: no target)."""
    valid, first, num_intervals, counts_for = _target(
        row, row >= 0, target, ptr, target_weight, num_targets, ignore_index
    )
    some = num_intervals > 0
    is_empty = tl.load(start + first, mask=some, other=0) >= tl.load(
        stop + first, mask=some, other=1
    )
    factor = times_incoming(row, divided(counts_for, divisor), grad_loss, grad_loss_step)
    bad = (valid == 0) | is_empty
    counts_for = tl.where(bad & (counts_for != 0), float("nan"), counts_for)
    factor = tl.where(bad & (factor != 0), float("nan"), factor)
    return start + first, stop + first, weight + first, num_intervals, counts_for, factor


@triton.jit(do_not_specialize=_SIZES)
def row_kernel(
    logits, grad, row_loss, target, ptr, start, stop, weight, order, target_weight, divisor,
    grad_loss, rings, row_vectors, column_vectors, grad_loss_step, num_targets, ignore_index,
    ring_step, entropy_bits, eps_bits,
    VECTOR: tl.constexpr, STRIP: tl.constexpr, STRIPS: tl.constexpr, RINGS: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """A row a program, of at most STRIP * STRIPS columns."""
    row = tl.program_id(0).to(tl.int64)
    columns = column_vectors * VECTOR
    logits += row * row_vectors * VECTOR
    rings += row * ring_step * _FIELDS
    start, stop, weight, num_intervals, counts_for, factor = _open_row(
        row, target, ptr, start, stop, weight, target_weight, divisor, grad_loss, grad_loss_step,
        num_targets, ignore_index,
    )  # fmt: skip
    entropy, eps = number(entropy_bits), number(eps_bits)
    has_entropy: tl.constexpr = entropy_bits is not None
    has_eps: tl.constexpr = eps_bits is not None

    strip = tl.arange(0, STRIPS)
    position = strip[:, None] * STRIP + tl.arange(0, STRIP)[None, :]
    in_row = position < columns
    column = _at_positions(position, in_row, order)
    read = position < tl.where(factor != 0, columns, 0)
    z = tl.load(logits + column, mask=read, other=float("-inf"))
    top, total, moment, gap, e = _measure(z.to(rings.dtype.element_ty), has_entropy)
    of_ring, whole = _ring_of_strips(strip, start, stop, num_intervals, columns, STRIP, STEPS)
    loss, row_top, slope, middle = _resolve(
        factor, logits, order, start, stop, weight, num_intervals, columns, rings, ring_step,
        top, total, moment, of_ring, whole, logits, 0, 0, entropy, eps,
        STRIP, STRIPS, RINGS, STEPS, False, has_entropy, has_eps,
    )  # fmt: skip
    if row_loss is not None:
        weighted = counts_for * loss.to(tl.float64)
        weighted = tl.where(counts_for != 0, weighted, 0.0)
        tl.store(row_loss + row, weighted.to(row_loss.dtype.element_ty))
    if grad is not None:
        grad += row * column_vectors * VECTOR
        g = _strip_gradient(
            gap, e, top, of_ring, whole, rings, ring_step, row_top, slope, middle, has_entropy
        )
        g = tl.where(factor == 0, 0.0, g).to(grad.dtype.element_ty)
        # Asked again rather than kept: registers are what this kernel has least of.
        column = _at_positions(position, in_row & whole[:, None], order)
        tl.store(grad + column, g, mask=in_row & whole[:, None])
        _write_pieces(
            factor, logits, grad, order, start, stop, num_intervals, columns, rings, ring_step,
            row_top, slope, middle, STRIP, RINGS, has_entropy,
        )  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def measure_kernel(
    logits, order, strips, target, first_row, row_vectors, column_vectors, strip_step,
    ignore_index,
    VECTOR: tl.constexpr, STRIP: tl.constexpr, STRIPS: tl.constexpr, FIELDS: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
):  # fmt: skip
    """(top, total) of STRIPS strips of a row a program; with entropy the moment too."""
    slot = tl.program_id(1).to(tl.int64)
    row = slot + first_row
    columns = column_vectors * VECTOR
    strip = tl.program_id(0) * STRIPS + tl.arange(0, STRIPS)
    position = strip[:, None] * STRIP + tl.arange(0, STRIP)[None, :]
    mask = position < tl.where(tl.load(target + row) != ignore_index, columns, 0)
    column = _at_positions(position, mask, order)
    logits += row * row_vectors * VECTOR
    z = tl.load(logits + column, mask=mask, other=float("-inf"))
    top, total, moment, _, _ = _measure(z.to(strips.dtype.element_ty), HAS_ENTROPY)
    strips += slot * strip_step * FIELDS
    tl.store(strips + strip, top, mask=strip < strip_step)
    tl.store(strips + strip_step + strip, total, mask=strip < strip_step)
    if HAS_ENTROPY:
        tl.store(strips + 2 * strip_step + strip, moment, mask=strip < strip_step)


@triton.jit(do_not_specialize=_SIZES)
def resolve_kernel(
    logits, grad, row_loss, target, ptr, start, stop, weight, order, target_weight, divisor,
    grad_loss, rings, strips, first_row, row_vectors, column_vectors, strip_step, grad_loss_step,
    num_targets, ignore_index, ring_step, entropy_bits, eps_bits,
    VECTOR: tl.constexpr, STRIP: tl.constexpr, STRIPS: tl.constexpr, FIELDS: tl.constexpr,
    RINGS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """A row a program: its loss, its rings' coefficients, and the gradient of its pieces."""
    slot = tl.program_id(0).to(tl.int64)
    row = slot + first_row
    columns = column_vectors * VECTOR
    logits += row * row_vectors * VECTOR
    rings += slot * ring_step * _FIELDS
    strips += slot * strip_step * FIELDS
    start, stop, weight, num_intervals, counts_for, factor = _open_row(
        row, target, ptr, start, stop, weight, target_weight, divisor, grad_loss, grad_loss_step,
        num_targets, ignore_index,
    )  # fmt: skip
    entropy, eps = number(entropy_bits), number(eps_bits)
    has_entropy: tl.constexpr = entropy_bits is not None
    has_eps: tl.constexpr = eps_bits is not None
    loss, row_top, slope, middle = _resolve(
        factor, logits, order, start, stop, weight, num_intervals, columns, rings, ring_step,
        0, 0, 0, 0, 0, strips, strip_step, strip_step, entropy, eps,
        STRIP, STRIPS, RINGS, STEPS, True, has_entropy, has_eps,
    )  # fmt: skip
    of_row = rings + _ROW * ring_step
    tl.store(of_row, row_top)
    tl.store(of_row + 1, slope)
    tl.store(of_row + 2, middle)
    tl.store(of_row + 3, factor.to(rings.dtype.element_ty))
    if row_loss is not None:
        weighted = counts_for * loss.to(tl.float64)
        weighted = tl.where(counts_for != 0, weighted, 0.0)
        tl.store(row_loss + row, weighted.to(row_loss.dtype.element_ty))
    if grad is not None:
        grad += row * column_vectors * VECTOR
        _write_pieces(
            factor, logits, grad, order, start, stop, num_intervals, columns, rings, ring_step,
            row_top, slope, middle, STRIP, RINGS, has_entropy,
        )  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def write_kernel(
    logits, grad, target, ptr, start, stop, order, rings, strips, first_row, row_vectors,
    column_vectors, strip_step, num_targets, ignore_index, ring_step,
    VECTOR: tl.constexpr, STRIP: tl.constexpr, STRIPS: tl.constexpr, FIELDS: tl.constexpr,
    STEPS: tl.constexpr, HAS_ENTROPY: tl.constexpr,
):  # fmt: skip
    """The gradient of STRIPS strips of a row a program, where they are whole."""
    slot = tl.program_id(1).to(tl.int64)
    row = slot + first_row
    columns = column_vectors * VECTOR
    rings += slot * ring_step * _FIELDS
    strips += slot * strip_step * FIELDS
    _, first, num_intervals, _ = _target(
        row, row >= 0, target, ptr, None, num_targets, ignore_index
    )
    strip = tl.program_id(0) * STRIPS + tl.arange(0, STRIPS)
    of_ring, whole = _ring_of_strips(
        strip, start + first, stop + first, num_intervals, columns, STRIP, STEPS
    )
    of_row = rings + _ROW * ring_step
    row_top, slope, middle = tl.load(of_row), tl.load(of_row + 1), tl.load(of_row + 2)
    factor = tl.load(of_row + 3)
    top = tl.load(strips + strip, mask=strip < strip_step, other=float("-inf"))
    position = strip[:, None] * STRIP + tl.arange(0, STRIP)[None, :]
    in_row = position < columns
    column = _at_positions(position, in_row, order)
    read = position < tl.where(factor != 0, columns, 0)
    logits += row * row_vectors * VECTOR
    z = tl.load(logits + column, mask=read, other=float("-inf"))
    gap = z.to(strips.dtype.element_ty) - finite(top)[:, None]
    g = _strip_gradient(
        gap, tl.exp(gap), top, of_ring, whole, rings, ring_step, row_top, slope, middle,
        HAS_ENTROPY,
    )  # fmt: skip
    g = tl.where(factor == 0, 0.0, g).to(grad.dtype.element_ty)
    tl.store(grad + row * column_vectors * VECTOR + column, g, mask=in_row & whole[:, None])
