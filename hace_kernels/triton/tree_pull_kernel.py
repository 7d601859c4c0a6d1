"""What mass on the places of a tree costs, and what it pulls: the kernel of `tree_log_loss`.

With q_v the mass that place v keeps, W = sum_v q_v, and top and total as in `fold`,

    L = -sum_v q_v log P_v,   log P_v = (top_v - top_root) + (log total_v - log total_root)

The mass rises in the same upward sweep as the sums, which finds W; the loss is found on the way
down, with the gradient (`pull_down`). With eps, L = -sum_v q_v log(P_v + eps), and its gradient is
that of the mass q_v P_v / (P_v + eps), whose sum has to be known before the pull: that is a stage
of its own.

The backward of `tree_log_prob` is minus what the incoming gradients pull, as mass on the nodes.

Bytes of a row, fp32: the logits are read from memory once (4C) and, in the L2 cache, once more; the
gradient is written once (4C). In scratch memory a place's mass is written once and read twice
(12P), and inner places have 12 bytes more.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .log_sums import finite
from .rows_kernel import number, times_incoming
from .tree_sweeps import fold, fold_levels, kept, pull_down, share_of

__all__ = [
    "DOWN_COLUMNS",
    "DOWN_LEVELS",
    "FADE",
    "FINISH",
    "HEAD",
    "UP_COLUMNS",
    "UP_LEVELS",
    "pull_kernel",
]

# Stages; each waits for the one before.
UP_COLUMNS, UP_LEVELS, FADE, DOWN_LEVELS, DOWN_COLUMNS, FINISH = 1, 2, 4, 8, 16, 32
_UP_COLUMNS = tl.constexpr(UP_COLUMNS)
_UP_LEVELS = tl.constexpr(UP_LEVELS)
_FADE = tl.constexpr(FADE)
_DOWN_LEVELS = tl.constexpr(DOWN_LEVELS)
_DOWN_COLUMNS = tl.constexpr(DOWN_COLUMNS)
_FINISH = tl.constexpr(FINISH)

# What programs leave for those of the next stage: sums over the inner places of all levels, and
# after these three times as many numbers as a row has parts.
HEAD = 2
_HEAD = tl.constexpr(HEAD)

# Numbers whose values are no reason to compile again.
_SIZES = (
    "grad_loss_step", "mass_step", "first_row", "parts", "programs", "row_step", "num_classes",
    "num_inner", "num_levels", "eps_bits",
)  # fmt: skip


@triton.jit
def _sum_of(sums, count):
    """The sum of `count` numbers, always in one order."""
    total = tl.full((), 0.0, tl.float64)
    for first in tl.range(0, count, 128):
        at = first + tl.arange(0, 128)
        total += tl.sum(tl.load(sums + at, mask=at < count, other=0.0), axis=0)
    return total


@triton.jit
def _probability(top, total, row_top, row_total):
    return total * tl.exp(top - row_top) / row_total


@triton.jit
def _fades(q, p, eps):
    """The mass that pulls with eps in the logarithm."""
    return tl.where(q == 0, 0.0, q * (p / (p + eps)))


@triton.jit
def _lose(q, top, total, row_top, row_total, eps, has_eps: tl.constexpr):
    """The loss at places and the mass that pulls; 0 log 0 is 0."""
    if has_eps:
        p = _probability(top, total, row_top, row_total)
        log_p = tl.log(p + eps)
        pulls = _fades(q, p, eps)
    else:
        log_p = (top - row_top) + (tl.log(total) - tl.log(row_total))
        pulls = q
    return tl.where(q == 0, 0.0, -q * log_p), pulls


@triton.jit(do_not_specialize=_SIZES)
def pull_kernel(
    logits, grad, row_loss, mass, keep, node, scratch, sums, counts, divisor, grad_loss,
    parent, child_ptr, child, num_columns, level_ptr, grad_loss_step, mass_step, first_row, parts,
    programs, row_step, num_classes, num_inner, num_levels, eps_bits,
    STAGES: tl.constexpr, NODES: tl.constexpr, KIDS: tl.constexpr,
):  # fmt: skip
    """Some stages of a row's loss and gradient; a row has `programs` programs.

    With `keep`, mass is by place, in scratch memory, and the gradient is that of the loss. Without,
    mass is by node, of all rows, and the gradient is that of its product with log P.
    """
    work: tl.constexpr = scratch.dtype.element_ty
    block: tl.constexpr = NODES * KIDS
    has_eps: tl.constexpr = eps_bits is not None
    slot = (tl.program_id(0) // programs).to(tl.int64)
    part = tl.program_id(0) % programs
    row = first_row + slot
    logits += row * row_step
    top = scratch + slot * 3 * num_inner
    total = top + num_inner
    pull = total + num_inner
    sums += slot * (_HEAD + 3 * parts)
    eps = number(eps_bits).to(work) if has_eps else 0.0
    if keep is None:
        mass += row * mass_step
        count = tl.full((), 1.0, tl.float64)
        factor = count
    else:
        mass += slot * mass_step
        count = tl.load(counts + row)
        factor = count
        if divisor is not None:
            factor = tl.where(count != 0, count / tl.load(divisor), count)
        factor = times_incoming(row, factor, grad_loss, grad_loss_step)

    # Rows that do not count are not read.
    live = factor != 0
    inner_span, column_span = tl.cdiv(num_inner, programs), tl.cdiv(num_classes, programs)
    inner_first, column_first = part * inner_span, part * column_span
    inner_last = tl.where(live, tl.minimum(inner_first + inner_span, num_inner), 0)
    column_last = tl.minimum(column_first + column_span, num_classes)
    column_read = tl.where(live, column_last, 0)
    levels = tl.where(live, num_levels, 0)

    if _UP_COLUMNS & STAGES:
        stayed = fold(
            inner_first, inner_last, logits, None, top, total, mass, keep, node, child_ptr, child,
            num_classes, True, True, NODES, KIDS,
        )  # fmt: skip
        tl.store(sums + _HEAD + part, stayed)
    if _UP_LEVELS & STAGES:
        stayed = fold_levels(
            levels, level_ptr, logits, None, top, total, mass, keep, node, child_ptr, child,
            num_classes, True, NODES, KIDS,
        )  # fmt: skip
        tl.store(sums, stayed)
        tl.debug_barrier()

    row_top = finite(tl.load(top + num_inner - 1, mask=live, other=0.0))
    row_total = tl.load(total + num_inner - 1, mask=live, other=1.0)
    if _FADE & STAGES:
        faded = tl.zeros((block,), tl.float64)
        for first in tl.range(column_first, column_read, block):
            c = first + tl.arange(0, block)
            there = c < column_read
            z = tl.load(logits + c, mask=there, other=0.0).to(work)
            q, _ = kept(c, there, there, mass, keep, node, work)
            faded += _fades(q, _probability(z, 1.0, row_top, row_total), eps)
        for first in tl.range(inner_first, inner_last, block):
            v = first + tl.arange(0, block)
            there = v < tl.minimum(inner_last, num_inner - 1)
            of_top = tl.load(top + v, mask=there, other=0.0)
            of_total = tl.load(total + v, mask=there, other=0.0)
            q, _ = kept(num_classes + v, there, there, mass, keep, node, work)
            faded += _fades(q, _probability(of_top, of_total, row_top, row_total), eps)
        tl.store(sums + _HEAD + parts + part, tl.sum(faded, axis=0))
        tl.debug_barrier()

    if _DOWN_LEVELS & STAGES:
        if grad is not None:
            if has_eps:
                all_mass = _sum_of(sums + _HEAD + parts, parts)
            else:
                all_mass = _sum_of(sums + _HEAD, parts) + tl.load(sums)
            at_root = tl.where(row_total > 0, all_mass.to(work) / row_total, float("nan"))
            tl.store(pull + num_inner - 1, at_root, mask=live)
        lost = tl.zeros((block,), tl.float64)
        for step in tl.range(1, levels, num_stages=1):
            begin = tl.load(level_ptr + levels - 1 - step)
            end = tl.load(level_ptr + levels - step)
            tl.debug_barrier()
            for first in tl.range(begin, end, block, num_stages=1):
                v = first + tl.arange(0, block)
                there = v < end
                of_top = tl.load(top + v, mask=there, other=0.0)
                of_total = tl.load(total + v, mask=there, other=1.0)
                q, _ = kept(num_classes + v, there, of_total != 0, mass, keep, node, work)
                loss, q = _lose(q, of_top, of_total, row_top, row_total, eps, has_eps)
                lost += loss
                if grad is not None:
                    pull_down(v, there, q, top, total, pull, parent, num_columns, num_classes)
        if row_loss is not None:
            tl.store(sums + 1, tl.sum(lost, axis=0))
        tl.debug_barrier()

    if _DOWN_COLUMNS & STAGES:
        lost = tl.zeros((block,), tl.float64)
        for first in tl.range(column_first, column_last, block):
            c = first + tl.arange(0, block)
            there = c < column_read
            z = tl.load(logits + c, mask=there, other=0.0).to(work)
            q, _ = kept(c, there, z != float("-inf"), mass, keep, node, work)
            loss, q = _lose(q, z, tl.full((block,), 1.0, work), row_top, row_total, eps, has_eps)
            lost += loss
            if grad is not None:
                above = tl.load(parent + c, mask=there, other=num_classes) - num_classes
                is_dead, per_unit, share = share_of(z, 1.0, above, there, top, pull)
                g = per_unit * tl.where(is_dead, 1.0, share) - q
                g = -g if keep is None else g * factor.to(work)
                g = tl.where(live, g, 0.0).to(grad.dtype.element_ty)
                tl.store(grad + row * num_classes + c, g, mask=c < column_last)
        if row_loss is not None:
            tl.store(sums + _HEAD + 2 * parts + part, tl.sum(lost, axis=0))
        tl.debug_barrier()

    if _FINISH & STAGES:
        loss = tl.load(sums + 1) + _sum_of(sums + _HEAD + 2 * parts, parts)
        loss = tl.where(row_total > 0, loss, float("nan"))
        loss = tl.where(live, count * loss, 0.0)
        tl.store(row_loss + row, loss.to(row_loss.dtype.element_ty))
