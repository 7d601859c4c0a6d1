"""The loss of mass on the places of a tree, and its gradient: the kernel of `tree_log_loss`.

With q_v the mass that place v keeps, W = sum_v q_v, and max and sum as in `fold`,

    L = -sum_v q_v log P_v,   log P_v = (max_v - max_root) + (log sum_v - log sum_root)

The mass rises in the same upward sweep as the sums, which gives W; the loss is computed on the way
down, with the gradient (`pull_down`). With eps, L = -sum_v q_v log(P_v + eps), and its gradient is
that of the mass q_v P_v / (P_v + eps), whose sum has to be known before the pull: computing it is a
stage of its own (`FADE`).

The backward of `tree_log_prob` is the negative of this gradient, with the incoming gradients as
mass on the nodes.

Bytes per row in float32: the logits are read from memory once (4C) and once more from the L2 cache;
the gradient is written once (4C). In scratch memory a place's mass is written once and read twice
(12P), and an inner place has 12 bytes more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .log_sums import LogSum, exp_of_difference, finite
from .rows_kernel import number, times_incoming
from .tree_sweeps import (
    Mass,
    Sums,
    fold,
    fold_levels,
    kept,
    level_of,
    num_levels_of,
    parts_of,
    pull_down,
    share_of,
    share_of_program,
)

__all__ = [
    "DOWN_COLUMNS",
    "DOWN_LEVELS",
    "FADE",
    "FINISH",
    "HEAD",
    "UP_COLUMNS",
    "UP_LEVELS",
    "PulledRows",
    "Scratch",
    "lose",
    "places_at",
    "pull_kernel",
    "row_sums_at",
]

# The stages of the kernel; each waits for the one before.
UP_COLUMNS, UP_LEVELS, FADE, DOWN_LEVELS, DOWN_COLUMNS, FINISH = 1, 2, 4, 8, 16, 32
_UP_COLUMNS = tl.constexpr(UP_COLUMNS)
_UP_LEVELS = tl.constexpr(UP_LEVELS)
_FADE = tl.constexpr(FADE)
_DOWN_LEVELS = tl.constexpr(DOWN_LEVELS)
_DOWN_COLUMNS = tl.constexpr(DOWN_COLUMNS)
_FINISH = tl.constexpr(FINISH)

# The row's sums begin with three numbers that programs leave for the next stage: the mass that the
# inner places of all levels keep, their loss, and the loss of mass elsewhere (`Mass.handed`). Three
# numbers per part of the row follow.
HEAD = 3
_HEAD = tl.constexpr(HEAD)


class PulledRows(NamedTuple):
    """Pointers to rows of logits, to their gradients and losses, and to factors; and eps; or None.

    Attributes:
        logits, grad, loss: by row.
        counts: float64, the weight of each row; None for mass by node.
        divisor: float64, what `mean` divides the gradient by; None for 1.
        eps: the bits of the number inside the logarithm; None for 0.
        grad_loss, grad_losses: as in `Targets`.
    """

    logits: Any
    grad: Any
    loss: Any
    counts: Any
    divisor: Any
    eps: Any
    grad_loss: Any = None
    grad_losses: Any = None


class Scratch(NamedTuple):
    """Pointers to what a chunk of rows needs memory for, one row after the other.

    Attributes:
        places: for each inner place the maximum and sum of the logits below it, and its pull.
        rows: float64, the row's sums; see `HEAD`.
        mixed: two numbers for each mixed node of a DAG; None for a tree.
    """

    places: Any
    rows: Any
    mixed: Any = None


# Triton compiles a kernel again for some values of its integer arguments, but not of these. They
# are not in a tuple because Triton compiles for the values of all numbers in a tuple.
_SIZES = ("first_row", "row_step", "mass_step", "num_classes", "num_inner")


@triton.jit
def places_at(slot, scratch, num_inner):
    """Where the maxima, the sums and the pulls of a row's inner places are."""
    maxima = scratch.places + slot * 3 * num_inner
    return maxima, maxima + num_inner, maxima + 2 * num_inner


@triton.jit
def row_sums_at(slot, scratch, parts):
    """Where the sums of a row are."""
    return scratch.rows + slot * (_HEAD + 3 * parts)


@triton.jit
def _sum_of(sums, count):
    """The sum of `count` numbers, always in the same order."""
    total = tl.full((), 0.0, tl.float64)
    for first in tl.range(0, count, 128):
        at = first + tl.arange(0, 128)
        total += tl.sum(tl.load(sums + at, mask=at < count, other=0.0), axis=0)
    return total


@triton.jit
def _probability(below, row):
    return below.sum * exp_of_difference(below.max, row.max) / row.sum


@triton.jit
def _fades(q, p, eps):
    """The mass that still pulls, with eps in the logarithm."""
    return tl.where(q == 0, 0.0, q * (p / (p + eps)))


@triton.jit
def lose(q, below, row, eps, has_eps: tl.constexpr):
    """The loss of mass q at places, and the mass that pulls; 0 log 0 is 0."""
    if has_eps:
        p = _probability(below, row)
        log_p = tl.log(p + eps)
        pulls = _fades(q, p, eps)
    else:
        log_p = (below.max - row.max) + (tl.log(below.sum) - tl.log(row.sum))
        pulls = q
    return tl.where(q == 0, 0.0, -q * log_p), pulls


@triton.jit(do_not_specialize=_SIZES)
def pull_kernel(
    rows, mass, scratch, tree, first_row, row_step, mass_step, num_classes, num_inner, tile,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Some stages of a row's loss and gradient. The grid is rows by programs per row.

    With `mass.keep`, the mass is by place, in scratch memory, and the gradient is that of the loss.
    Without it, the mass is by node, for all rows, and the gradient is that of its product with
    log P.
    """
    work: tl.constexpr = scratch.places.dtype.element_ty
    block: tl.constexpr = tile.nodes * tile.kids
    has_eps: tl.constexpr = rows.eps is not None
    slot, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = first_row + slot
    logits = rows.logits + row * row_step
    maxima, totals, pull = places_at(slot, scratch, num_inner)
    sums = Sums(maxima, totals)
    parts = parts_of(tile, num_classes, num_inner)
    row_sums = row_sums_at(slot, scratch, parts)
    eps = number(rows.eps).to(work) if has_eps else 0.0
    handed = None
    if mass.handed is not None:
        handed = mass.handed + slot * (num_classes + num_inner)
    if mass.keep is None:
        mass = Mass(mass.at + row * mass_step, None, mass.node, handed)
        count = tl.full((), 1.0, tl.float64)
        factor = count
    else:
        mass = Mass(mass.at + slot * mass_step, mass.keep, None, handed)
        count = tl.load(rows.counts + row)
        factor = count
        if rows.divisor is not None:
            factor = tl.where(count != 0, count / tl.load(rows.divisor), count)
        factor = times_incoming(row, factor, rows)

    # Rows of weight 0 are not read.
    live = factor != 0
    inner_first, inner_last = share_of_program(num_inner)
    column_first, column_last = share_of_program(num_classes)
    inner_last = tl.where(live, inner_last, 0)
    column_read = tl.where(live, column_last, 0)
    levels = tl.where(live, num_levels_of(tree), 0)

    if _UP_COLUMNS & STAGES:
        stayed = fold(inner_first, inner_last, logits, sums, mass, tree, num_classes, tile, True)
        tl.store(row_sums + _HEAD + part, stayed)
    if _UP_LEVELS & STAGES:
        stayed = fold_levels(levels, logits, sums, mass, tree, num_classes, tile)
        tl.store(row_sums, stayed)
        tl.debug_barrier()

    row_max = finite(tl.load(sums.max + num_inner - 1, mask=live, other=0.0))
    whole = LogSum(row_max, tl.load(sums.sum + num_inner - 1, mask=live, other=1.0))
    if _FADE & STAGES:
        faded = tl.zeros((block,), tl.float64)
        for first in tl.range(column_first, column_read, block):
            c = first + tl.arange(0, block)
            there = c < column_read
            z = tl.load(logits + c, mask=there, other=0.0).to(work)
            q, _ = kept(c, there, there, mass, work)
            faded += _fades(q, _probability(LogSum(z, 1.0), whole), eps)
        for first in tl.range(inner_first, inner_last, block):
            v = first + tl.arange(0, block)
            there = v < tl.minimum(inner_last, num_inner - 1)
            of_max = tl.load(sums.max + v, mask=there, other=0.0)
            below = LogSum(of_max, tl.load(sums.sum + v, mask=there, other=0.0))
            q, _ = kept(num_classes + v, there, there, mass, work)
            faded += _fades(q, _probability(below, whole), eps)
        tl.store(row_sums + _HEAD + parts + part, tl.sum(faded, axis=0))
        tl.debug_barrier()

    if _DOWN_LEVELS & STAGES:
        if rows.grad is not None:
            if has_eps:
                all_mass = _sum_of(row_sums + _HEAD + parts, parts)
            else:
                all_mass = _sum_of(row_sums + _HEAD, parts) + tl.load(row_sums)
            at_root = tl.where(whole.sum > 0, all_mass.to(work) / whole.sum, float("nan"))
            tl.store(pull + num_inner - 1, at_root, mask=live)
        lost = tl.zeros((block,), tl.float64)
        for step in tl.range(1, levels, num_stages=1):
            begin, end = level_of(tree, levels - 1 - step)
            tl.debug_barrier()
            for first in tl.range(begin, end, block, num_stages=1):
                v = first + tl.arange(0, block)
                there = v < end
                of_max = tl.load(sums.max + v, mask=there, other=0.0)
                below = LogSum(of_max, tl.load(sums.sum + v, mask=there, other=1.0))
                q, _ = kept(num_classes + v, there, below.sum != 0, mass, work)
                loss, q = lose(q, below, whole, eps, has_eps)
                lost += loss
                if rows.grad is not None:
                    if mass.handed is not None:
                        q += tl.load(mass.handed + num_classes + v, mask=there, other=0.0)
                    pull_down(v, there, q, sums, pull, tree, num_classes)
        if rows.loss is not None:
            tl.store(row_sums + 1, tl.sum(lost, axis=0))
        tl.debug_barrier()

    if _DOWN_COLUMNS & STAGES:
        lost = tl.zeros((block,), tl.float64)
        for first in tl.range(column_first, column_last, block):
            c = first + tl.arange(0, block)
            there = c < column_read
            z = tl.load(logits + c, mask=there, other=0.0).to(work)
            q, _ = kept(c, there, z != float("-inf"), mass, work)
            loss, q = lose(q, LogSum(z, tl.full((block,), 1.0, work)), whole, eps, has_eps)
            lost += loss
            if rows.grad is not None:
                above = tl.load(tree.parent + c, mask=there, other=num_classes) - num_classes
                is_dead, per_unit, share = share_of(LogSum(z, 1.0), above, there, sums, pull)
                if mass.handed is not None:
                    q += tl.load(mass.handed + c, mask=there, other=0.0)
                g = per_unit * tl.where(is_dead, 1.0, share) - q
                g = -g if mass.keep is None else g * factor.to(work)
                g = tl.where(live, g, 0.0).to(rows.grad.dtype.element_ty)
                tl.store(rows.grad + row * num_classes + c, g, mask=c < column_last)
        if rows.loss is not None:
            tl.store(row_sums + _HEAD + 2 * parts + part, tl.sum(lost, axis=0))
        tl.debug_barrier()

    if _FINISH & STAGES:
        loss = tl.load(row_sums + 1) + _sum_of(row_sums + _HEAD + 2 * parts, parts)
        if mass.handed is not None:
            loss += tl.load(row_sums + 2)
        loss = tl.where(whole.sum > 0, loss, float("nan"))
        loss = tl.where(live, count * loss, 0.0)
        tl.store(rows.loss + row, loss.to(rows.loss.dtype.element_ty))
