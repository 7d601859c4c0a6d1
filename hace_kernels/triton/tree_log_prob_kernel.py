"""The kernel of `tree_log_prob`; its backward is `pull_kernel`, with the gradients as mass.

    log P_v = (top_v - top_root) + (log total_v - log total_root),   top and total as in `fold`

Bytes of a row, fp32: the logits are read from memory once (4C) and, in the L2 cache, once more; the
log-probabilities are written once (4N). In scratch memory inner places have 8 bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .log_sums import finite
from .tree_sweeps import IN_NODES_OUT, fold_up

__all__ = ["log_prob_kernel"]

# Numbers whose values are no reason to compile again.
_SIZES = (
    "first_row", "programs", "row_step", "num_nodes", "num_classes", "num_inner", "num_levels",
)  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def log_prob_kernel(
    logits, log_prob, scratch, place, child_ptr, child, level_ptr, first_row, programs, row_step,
    num_nodes, num_classes, num_inner, num_levels,
    STAGES: tl.constexpr, NODES: tl.constexpr, KIDS: tl.constexpr,
):  # fmt: skip
    """Some stages of a row's log-probabilities by node; a row has `programs` programs."""
    slot = (tl.program_id(0) // programs).to(tl.int64)
    part = tl.program_id(0) % programs
    row = first_row + slot
    logits += row * row_step
    top = scratch + slot * 2 * num_inner
    total = top + num_inner
    fold_up(
        part, programs, logits, None, top, total, child_ptr, child, level_ptr, num_classes,
        num_inner, num_levels, True, STAGES, NODES, KIDS,
    )  # fmt: skip
    if IN_NODES_OUT & STAGES:
        row_top = finite(tl.load(top + num_inner - 1))
        log_row_total = tl.log(tl.load(total + num_inner - 1))
        log_row_total = tl.where(log_row_total == float("-inf"), float("nan"), log_row_total)
        log_prob += row * num_nodes
        span = tl.cdiv(num_nodes, programs)
        last = tl.minimum((part + 1) * span, num_nodes)
        for first in tl.range(part * span, last, NODES * KIDS):
            node = first + tl.arange(0, NODES * KIDS)
            there = node < last
            p = tl.load(place + node, mask=there, other=-1)
            is_inner = p >= num_classes
            z = tl.load(logits + p, mask=(p >= 0) & (p < num_classes), other=float("-inf"))
            of_top = tl.load(top + p - num_classes, mask=is_inner, other=float("-inf"))
            of_total = tl.load(total + p - num_classes, mask=is_inner, other=1.0)
            of_top = tl.where(is_inner, of_top, z.to(of_top.dtype))
            log_p = (of_top - row_top) + (tl.log(of_total) - log_row_total)
            tl.store(log_prob + node, tl.where(p >= 0, log_p, float("-inf")), mask=there)
