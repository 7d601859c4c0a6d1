"""The kernels that put the targets of `tree_log_loss` on places; see `TargetTable`.

They leave the mass on every place, before it rises, and the weight of every row, for `pull_kernel`.

What targets put on every class, alpha, is one number per row; it becomes the mass alpha unit_v at
every place v. With soft labels it is one number per ring between two nodes of the target's path,
since it depends on the lowest common ancestor alone. Then alpha_v is that of the ring below v, and
alpha_v = alpha_parent + delta_v, where delta is not 0 at the nodes of the path only. A column has
the alpha of its parent; the target's own column has a mass of its own besides.

What targets put on their own places is computed in float64, so that it can cancel exactly what
smoothing takes from them: products are stored before they are added, which keeps the compiler from
fusing them with the sum.

Bytes per row: the mass is written once (4P in float32); probabilities as targets are read twice
(8T).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .rows_kernel import number

__all__ = ["Given", "Own", "PutTable", "SoftLabels", "put_kernel", "target_kernel"]


class Given(NamedTuple):
    """Pointers to the targets of a call: probabilities `mass`, or `index` and its weights.

    `weight` is None where each row has one index, of weight 1.
    """

    mass: Any
    index: Any
    weight: Any


class Own(NamedTuple):
    """Pointers to what belongs to each index of a row: place, mass, and what reaches the place."""

    place: Any
    mass: Any
    reached: Any


class PutTable(NamedTuple):
    """Pointers to tensors of a `hace_kernels.TargetTable`; `spread` may be None."""

    place: Any
    unit: Any
    share: Any
    spread: Any


class SoftLabels(NamedTuple):
    """Pointers to soft labels by place, and the classes at or below each inner place."""

    log_similarity: Any
    is_class: Any
    classes_below: Any


# Triton compiles a kernel again for some values of its integer arguments, but not of these. They
# are not in a tuple because Triton compiles for the values of all numbers in a tuple.
_SIZES = (
    "first_row", "programs", "mass_step", "num_indices", "ignore_index", "num_targets",
    "num_places", "num_classes", "num_inner", "num_levels", "row_spread_bits",
)  # fmt: skip


@triton.jit
def _similarity(place, log_similarity, nearest):
    """The similarity at a place, relative to that of the nearest class; 0 above the root.

    It is relative because all classes may be so far away that exp(log_similarity) underflows.
    """
    there = place >= 0
    x = tl.load(log_similarity + place, mask=there, other=0.0)
    return tl.where(there, tl.exp(x - nearest), 0.0)


@triton.jit
def _put_soft_label(place, scale, alpha, unit, soft, parent, num_classes):
    """Adds `scale` times a target's soft labels to `alpha`; returns the mass of its own place."""
    nearest = tl.load(soft.log_similarity + place)
    everything = tl.full((), 0.0, tl.float64)
    inside = tl.full((), 0.0, tl.float64)
    at = place
    while at >= 0:
        of_inner = at >= num_classes
        below = tl.load(soft.classes_below + at - num_classes, mask=of_inner, other=0.0)
        below += tl.load(soft.is_class + at, mask=of_inner == 0, other=0.0)
        everything += _similarity(at, soft.log_similarity, nearest) * (below - inside)
        inside = below
        at = tl.load(parent + at)
    scale = scale / everything

    ring = tl.where(place >= num_classes, place, tl.load(parent + place))
    at = ring
    while at >= 0:
        above = tl.load(parent + at)
        delta = _similarity(at, soft.log_similarity, nearest)
        delta = scale * (delta - _similarity(above, soft.log_similarity, nearest))
        before = tl.load(alpha + at - num_classes)
        tl.store(alpha + at - num_classes, before + delta.to(alpha.dtype.element_ty))
        at = above
    tl.debug_barrier()
    return scale * (1 - _similarity(ring, soft.log_similarity, nearest)) * tl.load(unit + place)


@triton.jit
def _alpha_at(place, there, alpha, parent, num_classes):
    """The mass on every class of the ring that a place is in."""
    above = tl.load(parent + place, mask=there & (place < num_classes), other=0)
    ring = tl.where(place < num_classes, above, place)
    return tl.load(alpha + ring - num_classes, mask=there, other=0.0)


@triton.jit(do_not_specialize=_SIZES)
def target_kernel(
    given, own, counts, alpha, table, soft, parent, level_ptr, first_row, mass_step, num_indices,
    ignore_index, num_targets, num_classes, num_inner, num_levels, row_spread_bits,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores a row's weight, its alpha, and the mass on its targets' own places.

    One program per row. The weight is NaN if a target is not valid. `alpha` has one entry per row,
    or with soft labels one per row and inner place.
    """
    slot = tl.program_id(0).to(tl.int64)
    row = first_row + slot
    lane = tl.arange(0, BLOCK)
    on_classes = tl.full((), 0.0, tl.float64) + number(row_spread_bits)
    bad = tl.full((), 0, tl.int32)
    count = tl.full((), 1.0, tl.float64)
    if given.index is None:
        mass = given.mass + row * mass_step
        for first in tl.range(0, num_targets, BLOCK):
            t = first + lane
            m = tl.load(mass + t, mask=t < num_targets, other=0.0)
            place = tl.load(table.place + t, mask=t < num_targets, other=0)
            bad += tl.sum(((m != 0) & (place < 0)).to(tl.int32), axis=0)
            if table.spread is not None:
                each = tl.load(table.spread + t, mask=t < num_targets, other=0.0)
                on_classes += tl.sum(m.to(tl.float64) * each, axis=0)
    else:
        index = given.index + row * num_indices
        at = slot * num_indices
        own = Own(own.place + at, own.mass + at, own.reached + at)
        used_ones = tl.full((), 0, tl.int32)
        for first in tl.range(0, num_indices, BLOCK):
            k = first + lane
            t = tl.load(index + k, mask=k < num_indices, other=0)
            used = (k < num_indices) & (t != ignore_index)
            valid = used & (t >= 0) & (t < num_targets)
            place = tl.load(table.place + t, mask=valid, other=-1)
            each = tl.load(table.share + t, mask=valid, other=0.0)
            if given.weight is None:
                weight = used.to(tl.float64)
            else:
                weight = tl.load(given.weight + row * num_indices + k, mask=valid, other=0.0)
            wrong = used & ((place < 0) | (each != each) | (weight != weight))
            bad += tl.sum(wrong.to(tl.int32), axis=0)
            used_ones += tl.sum(used.to(tl.int32), axis=0)
            puts = (place >= 0) & (weight != 0)
            if table.spread is not None:
                more = tl.load(table.spread + t, mask=puts, other=0.0)
                on_classes += tl.sum(tl.where(puts, weight * more, 0.0), axis=0)
            tl.store(own.place + k, tl.where(puts, place, -1), mask=k < num_indices)
            tl.store(own.mass + k, tl.where(puts, weight * each, 0.0), mask=k < num_indices)
        count = (used_ones > 0).to(tl.float64)
        tl.debug_barrier()
    tl.store(counts + row, tl.where(bad > 0, float("nan"), count))

    if soft is None:
        tl.store(alpha + slot, on_classes)
    else:
        alpha += slot * num_inner
        for first in tl.range(0, num_inner, BLOCK):
            v = first + lane
            at_root = tl.where(v == num_inner - 1, on_classes, 0.0)
            tl.store(alpha + v, at_root.to(alpha.dtype.element_ty), mask=v < num_inner)
        tl.debug_barrier()
        for one in tl.range(0, num_indices, num_stages=1):
            start = tl.load(own.place + one)
            if start >= 0:
                scale = tl.load(own.mass + one)
                put = _put_soft_label(start, scale, alpha, table.unit, soft, parent, num_classes)
                tl.store(own.mass + one, put)
        for step in tl.range(1, num_levels, num_stages=1):
            begin = tl.load(level_ptr + num_levels - 1 - step)
            end = tl.load(level_ptr + num_levels - step)
            tl.debug_barrier()
            for first in tl.range(begin, end, BLOCK, num_stages=1):
                v = first + lane
                above = tl.load(parent + num_classes + v, mask=v < end, other=num_classes)
                inherited = tl.load(alpha + above - num_classes, mask=v < end, other=0.0)
                delta = tl.load(alpha + v, mask=v < end, other=0.0)
                tl.store(alpha + v, inherited + delta, mask=v < end)
        tl.debug_barrier()

    if given.index is not None:
        for first in tl.range(0, num_indices, BLOCK):
            k = first + lane
            place = tl.load(own.place + k, mask=k < num_indices, other=-1)
            there = place >= 0
            if soft is None:
                ring = tl.where(there, on_classes, 0.0)
            else:
                ring = _alpha_at(place, there, alpha, parent, num_classes).to(tl.float64)
            as_any = ring * tl.load(table.unit + place, mask=there, other=0.0)
            tl.store(own.reached + k, as_any, mask=k < num_indices)
        tl.debug_barrier()
        for first in tl.range(0, num_indices, BLOCK):
            k = first + lane
            place = tl.load(own.place + k, mask=k < num_indices, other=-1)
            reached = tl.load(own.reached + k, mask=k < num_indices, other=0.0)
            for other in tl.range(0, num_indices):
                same = place == tl.load(own.place + other)
                reached += tl.where(same, tl.load(own.mass + other), 0.0)
            tl.store(own.reached + k, reached, mask=k < num_indices)


@triton.jit(do_not_specialize=_SIZES)
def put_kernel(
    reached, mass, alpha, own, table, target_ptr, target_order, parent, first_row, programs,
    mass_step, num_indices, num_places, num_classes, num_inner,
    SPREADS: tl.constexpr, RINGS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores the mass that targets put on each place, before it rises. Several programs per row.

    It comes from the probabilities `mass`, by the targets at each place (`target_order` from
    `target_ptr` on), or, where `mass` is None, from what indices put on their own places. SPREADS
    says that there is an alpha; RINGS, that it has an entry per inner place.
    """
    slot = (tl.program_id(0) // programs).to(tl.int64)
    part = tl.program_id(0) % programs
    span = tl.cdiv(num_places, programs)
    begin = part * span
    end = tl.minimum(begin + span, num_places)
    work: tl.constexpr = reached.dtype.element_ty
    reached += slot * num_places
    if mass is not None:
        mass += (first_row + slot) * mass_step
    for first in tl.range(begin, end, BLOCK, num_stages=1):
        p = first + tl.arange(0, BLOCK)
        there = p < end
        put = tl.zeros((BLOCK,), work)
        if mass is not None:
            at = tl.load(target_ptr + p, mask=there, other=0)
            until = tl.load(target_ptr + p + 1, mask=there, other=0)
            for more in tl.range(0, tl.max(until - at, axis=0), num_stages=1):
                t = tl.load(target_order + at + more, mask=at + more < until, other=-1)
                each = tl.load(table.share + t, mask=t >= 0, other=0.0).to(work)
                put += tl.load(mass + t, mask=t >= 0, other=0.0) * each
        if SPREADS:
            if RINGS:
                ring = _alpha_at(p, there, alpha + slot * num_inner, parent, num_classes)
            else:
                ring = tl.load(alpha + slot).to(work)
            put += ring * tl.load(table.unit + p, mask=there, other=0.0).to(work)
        tl.store(reached + p, put, mask=there)
    if mass is None:
        tl.debug_barrier()
        for first in tl.range(0, num_indices, BLOCK, num_stages=1):
            k = first + tl.arange(0, BLOCK)
            p = tl.load(own.place + slot * num_indices + k, mask=k < num_indices, other=-1)
            some = tl.load(own.reached + slot * num_indices + k, mask=k < num_indices, other=0.0)
            tl.store(reached + p, some.to(work), mask=(p >= begin) & (p < end))
