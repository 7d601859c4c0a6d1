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

from .exp import exp
from .lists import bounds_of
from .rows_kernel import number
from .tree_sweeps import level_of, num_levels_of, share_of_program

__all__ = ["Given", "PutRows", "PutTable", "SoftLabels", "put_kernel", "target_kernel"]

# How many targets of a row, and how many places, are handled together.
_TARGETS = tl.constexpr(128)
_PLACES = tl.constexpr(1024)


class Given(NamedTuple):
    """Pointers to the targets of a call: probabilities `mass`, or `index` and its weights.

    `weight` is None where each row has one index, of weight 1. The rows of `mass` or
    `index` are `step` numbers apart, which is the number of indices per row.
    """

    mass: Any
    index: Any
    weight: Any


class PutRows(NamedTuple):
    """Pointers to what the kernels leave for each other and for the loss.

    Attributes:
        places: what all targets put on each place, before it rises.
        counts: float64, the weight of each row, NaN if a target is not valid.
        place: the place of each index of a row, or -1; None where there are probabilities.
        mass: float64, what each index puts on its place; None likewise.
        reached: float64, all that is put on the place of each index; None likewise.
        alpha: float64, what the row's targets put on every class; None for 0.
        rings: with soft labels, in place of `alpha`, what they put on every class of each inner
            place's ring.
    """

    places: Any
    counts: Any
    place: Any = None
    mass: Any = None
    reached: Any = None
    alpha: Any = None
    rings: Any = None


class _Own(NamedTuple):
    """Pointers to the places and masses of a row's indices, and how many there are."""

    place: Any
    mass: Any
    count: Any


class PutTable(NamedTuple):
    """Pointers to tensors of a `hace_kernels.TargetTable`, or None for what is 0 everywhere.

    Attributes:
        row_spread: the bits of the number.
        ptr, target: the targets at place p are target[ptr[p]] … target[ptr[p + 1] - 1]; for
            probabilities.
    """

    place: Any
    unit: Any
    share: Any
    spread: Any
    row_spread: Any
    ptr: Any
    target: Any


class SoftLabels(NamedTuple):
    """Pointers to soft labels by place, and the classes at or below each inner place."""

    log_similarity: Any
    is_class: Any
    classes_below: Any


# Triton compiles a kernel again for some values of its integer arguments, but not of these. They
# are not in a tuple because Triton compiles for the values of all numbers in a tuple.
_SIZES = (
    "first_row", "step", "ignore_index", "num_targets", "num_places", "num_classes", "num_inner",
)  # fmt: skip


@triton.jit
def _similarity(place, log_similarity, nearest):
    """The similarity at a place, relative to that of the nearest class; 0 above the root.

    It is relative because all classes may be so far away that exp(log_similarity) underflows.
    """
    there = place >= 0
    x = tl.load(log_similarity + place, mask=there, other=0.0)
    return tl.where(there, exp(x - nearest), 0.0)


@triton.jit
def _put_soft_label(place, scale, rings, table, soft, tree, num_classes):
    """Adds `scale` times a target's soft labels to the rings; returns the mass of its own place."""
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
        at = tl.load(tree.parent + at)
    scale = scale / everything

    ring = tl.where(place >= num_classes, place, tl.load(tree.parent + place))
    at = ring
    while at >= 0:
        above = tl.load(tree.parent + at)
        delta = _similarity(at, soft.log_similarity, nearest)
        delta = scale * (delta - _similarity(above, soft.log_similarity, nearest))
        before = tl.load(rings + at - num_classes)
        tl.store(rings + at - num_classes, before + delta.to(rings.dtype.element_ty))
        at = above
    tl.debug_barrier()
    return (
        scale * (1 - _similarity(ring, soft.log_similarity, nearest)) * tl.load(table.unit + place)
    )


@triton.jit
def _put_soft_labels(on_classes, rings, own, table, soft, tree, num_classes, num_inner):
    """Stores what a row's targets put on every class of each ring, from the root down.

    On the way it replaces the masses of the targets by those of their own places.
    """
    lane = tl.arange(0, _TARGETS)
    for first in tl.range(0, num_inner, _TARGETS):
        v = first + lane
        at_root = tl.where(v == num_inner - 1, on_classes, 0.0)
        tl.store(rings + v, at_root.to(rings.dtype.element_ty), mask=v < num_inner)
    tl.debug_barrier()
    for one in tl.range(0, own.count, num_stages=1):
        start = tl.load(own.place + one)
        if start >= 0:
            scale = tl.load(own.mass + one)
            put = _put_soft_label(start, scale, rings, table, soft, tree, num_classes)
            tl.store(own.mass + one, put)
    num_levels = num_levels_of(tree)
    for step in tl.range(1, num_levels, num_stages=1):
        begin, end = level_of(tree, num_levels - 1 - step)
        tl.debug_barrier()
        for first in tl.range(begin, end, _TARGETS, num_stages=1):
            v = first + lane
            above = tl.load(tree.parent + num_classes + v, mask=v < end, other=num_classes)
            inherited = tl.load(rings + above - num_classes, mask=v < end, other=0.0)
            delta = tl.load(rings + v, mask=v < end, other=0.0)
            tl.store(rings + v, inherited + delta, mask=v < end)
    tl.debug_barrier()


@triton.jit
def _alpha_at(place, there, rings, tree, num_classes):
    """The mass on every class of the ring that a place is in."""
    above = tl.load(tree.parent + place, mask=there & (place < num_classes), other=0)
    ring = tl.where(place < num_classes, above, place)
    return tl.load(rings + ring - num_classes, mask=there, other=0.0)


@triton.jit(do_not_specialize=_SIZES)
def target_kernel(
    given, put, table, soft, tree, first_row, step, ignore_index, num_targets, num_classes,
    num_inner,
):  # fmt: skip
    """Stores a row's weight, its alpha, and the mass on its targets' own places.

    One program per row.
    """
    slot = tl.program_id(0).to(tl.int64)
    row = first_row + slot
    lane = tl.arange(0, _TARGETS)
    on_classes = tl.full((), 0.0, tl.float64) + number(table.row_spread)
    bad = tl.full((), 0, tl.int32)
    count = tl.full((), 1.0, tl.float64)
    if given.index is None:
        mass = given.mass + row * step
        for first in tl.range(0, num_targets, _TARGETS):
            t = first + lane
            m = tl.load(mass + t, mask=t < num_targets, other=0.0)
            place = tl.load(table.place + t, mask=t < num_targets, other=0)
            bad += tl.sum(((m != 0) & (place < 0)).to(tl.int32), axis=0)
            if table.spread is not None:
                each = tl.load(table.spread + t, mask=t < num_targets, other=0.0)
                on_classes += tl.sum(m.to(tl.float64) * each, axis=0)
    else:
        index = given.index + row * step
        own = _Own(put.place + slot * step, put.mass + slot * step, step)
        used_ones = tl.full((), 0, tl.int32)
        for first in tl.range(0, step, _TARGETS):
            k = first + lane
            t = tl.load(index + k, mask=k < step, other=0)
            used = (k < step) & (t != ignore_index)
            valid = used & (t >= 0) & (t < num_targets)
            place = tl.load(table.place + t, mask=valid, other=-1)
            each = tl.load(table.share + t, mask=valid, other=0.0)
            if given.weight is None:
                weight = used.to(tl.float64)
            else:
                weight = tl.load(given.weight + row * step + k, mask=valid, other=0.0)
            wrong = used & ((place < 0) | (each != each) | (weight != weight))
            bad += tl.sum(wrong.to(tl.int32), axis=0)
            used_ones += tl.sum(used.to(tl.int32), axis=0)
            puts = (place >= 0) & (weight != 0)
            if table.spread is not None:
                more = tl.load(table.spread + t, mask=puts, other=0.0)
                on_classes += tl.sum(tl.where(puts, weight * more, 0.0), axis=0)
            tl.store(own.place + k, tl.where(puts, place, -1), mask=k < step)
            tl.store(own.mass + k, tl.where(puts, weight * each, 0.0), mask=k < step)
        count = (used_ones > 0).to(tl.float64)
        tl.debug_barrier()
    tl.store(put.counts + row, tl.where(bad > 0, float("nan"), count))

    if soft is None:
        if put.alpha is not None:
            tl.store(put.alpha + slot, on_classes)
    else:
        rings = put.rings + slot * num_inner
        _put_soft_labels(on_classes, rings, own, table, soft, tree, num_classes, num_inner)

    if given.index is not None:
        reached_at = put.reached + slot * step
        for first in tl.range(0, step, _TARGETS):
            k = first + lane
            place = tl.load(own.place + k, mask=k < step, other=-1)
            there = place >= 0
            if soft is None:
                ring = tl.where(there, on_classes, 0.0)
            else:
                ring = _alpha_at(place, there, rings, tree, num_classes).to(tl.float64)
            as_any = ring * tl.load(table.unit + place, mask=there, other=0.0)
            tl.store(reached_at + k, as_any, mask=k < step)
        tl.debug_barrier()
        for first in tl.range(0, step, _TARGETS):
            k = first + lane
            place = tl.load(own.place + k, mask=k < step, other=-1)
            reached = tl.load(reached_at + k, mask=k < step, other=0.0)
            for other in tl.range(0, step):
                same = place == tl.load(own.place + other)
                reached += tl.where(same, tl.load(own.mass + other), 0.0)
            tl.store(reached_at + k, reached, mask=k < step)


@triton.jit(do_not_specialize=_SIZES)
def put_kernel(given, put, table, tree, first_row, step, num_places, num_classes, num_inner):
    """Stores the mass that targets put on each place, before it rises.

    It comes from probabilities, or from what indices put on their own places. The grid is rows by
    programs per row.
    """
    slot = tl.program_id(0).to(tl.int64)
    begin, end = share_of_program(num_places)
    work: tl.constexpr = put.places.dtype.element_ty
    on_places = put.places + slot * num_places
    if given.mass is not None:
        mass = given.mass + (first_row + slot) * step
    for first in tl.range(begin, end, _PLACES, num_stages=1):
        p = first + tl.arange(0, _PLACES)
        there = p < end
        total = tl.zeros((_PLACES,), work)
        if given.mass is not None:
            at, until, most = bounds_of(table.ptr, p, there)
            for more in tl.range(0, most, num_stages=1):
                t = tl.load(table.target + at + more, mask=at + more < until, other=-1)
                each = tl.load(table.share + t, mask=t >= 0, other=0.0).to(work)
                total += tl.load(mass + t, mask=t >= 0, other=0.0) * each
        if put.rings is not None:
            ring = _alpha_at(p, there, put.rings + slot * num_inner, tree, num_classes)
            total += ring * tl.load(table.unit + p, mask=there, other=0.0).to(work)
        elif put.alpha is not None:
            alpha = tl.load(put.alpha + slot).to(work)
            total += alpha * tl.load(table.unit + p, mask=there, other=0.0).to(work)
        tl.store(on_places + p, total, mask=there)
    if given.mass is None:
        tl.debug_barrier()
        for first in tl.range(0, step, _TARGETS, num_stages=1):
            k = first + tl.arange(0, _TARGETS)
            p = tl.load(put.place + slot * step + k, mask=k < step, other=-1)
            some = tl.load(put.reached + slot * step + k, mask=k < step, other=0.0)
            tl.store(on_places + p, some.to(work), mask=(p >= begin) & (p < end))
