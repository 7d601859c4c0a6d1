"""The kernel of `tree_log_prob`; its backward is `pull_kernel` with the gradients as mass.

    log P_v = (max_v - max_root) + (log sum_v - log sum_root),   max and sum as in `fold`

Bytes per row in float32: the logits are read from memory once (4C) and once more from the L2 cache;
the log-probabilities are written once (4N). In scratch memory an inner place has 8 bytes, and so
has a mixed node of a DAG after them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .log_sums import finite
from .tree_sweeps import IN_NODES_OUT, Sums, fold_up, share_of_program

__all__ = ["LogProbRows", "log_prob_kernel"]

# Triton compiles a kernel again for some values of its integer arguments, but not of these.
_SIZES = ("first_row", "row_step", "num_nodes", "num_classes", "num_inner", "num_sums")


class LogProbRows(NamedTuple):
    """Pointers to logits, to log-probabilities by node, and to maxima and sums by inner place."""

    logits: Any
    log_prob: Any
    scratch: Any


@triton.jit(do_not_specialize=_SIZES)
def log_prob_kernel(
    rows, tree, first_row, row_step, num_nodes, num_classes, num_inner, num_sums, tile,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Some stages of a row's log-probabilities by node. The grid is rows by programs per row."""
    slot = tl.program_id(0).to(tl.int64)
    row = first_row + slot
    logits = rows.logits + row * row_step
    maxima = rows.scratch + slot * 2 * num_sums
    sums = Sums(maxima, maxima + num_sums)
    fold_up(logits, sums, tree, num_classes, num_inner, tile, STAGES)
    if IN_NODES_OUT & STAGES:
        row_max = finite(tl.load(sums.max + num_inner - 1))
        log_row_sum = tl.log(tl.load(sums.sum + num_inner - 1))
        log_row_sum = tl.where(log_row_sum == float("-inf"), float("nan"), log_row_sum)
        log_prob = rows.log_prob + row * num_nodes
        begin, last = share_of_program(num_nodes)
        for first in tl.range(begin, last, tile.nodes * tile.kids):
            node = first + tl.arange(0, tile.nodes * tile.kids)
            there = node < last
            p = tl.load(tree.place + node, mask=there, other=-1)
            is_inner = p >= num_classes
            z = tl.load(logits + p, mask=(p >= 0) & (p < num_classes), other=float("-inf"))
            of_max = tl.load(sums.max + p - num_classes, mask=is_inner, other=float("-inf"))
            of_sum = tl.load(sums.sum + p - num_classes, mask=is_inner, other=1.0)
            of_max = tl.where(is_inner, of_max, z.to(of_max.dtype))
            log_p = (of_max - row_max) + (tl.log(of_sum) - log_row_sum)
            tl.store(log_prob + node, tl.where(p >= 0, log_p, float("-inf")), mask=there)
