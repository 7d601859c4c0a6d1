"""The sums of mixed nodes, in the ops over the nodes of a DAG.

The columns below a mixed node are those of its parts, places of the spanning tree that have no
column in common: its sum is the sum of theirs. One program per row. Mixed nodes have sums after the
inner places' in scratch memory.

Bytes per row: a part's sum is read from the L2 cache, twice if it is a log-sum (8 bytes each in
float32), and a mixed node's is written once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dag_log_loss_kernel import sums_at
from .log_sums import finite
from .tree_sweeps import Sums

__all__ = ["handed_kernel", "mixed_log_sums_kernel", "mixed_sums_kernel"]

# Triton compiles a kernel again for some values of its integer arguments, but not of these.
_SIZES = ("first_row", "row_step", "num_classes", "num_inner", "num_mixed", "num_places")


@triton.jit
def _parts(first, last, more, there, part, KIDS: tl.constexpr):
    """Some parts of mixed nodes, and which of them exist."""
    at = first[:, None] + more + tl.arange(0, KIDS)[None, :]
    mask = there[:, None] & (at < last[:, None])
    return tl.load(part + at, mask=mask, other=0), mask


@triton.jit(do_not_specialize=_SIZES)
def mixed_log_sums_kernel(
    logits, scratch, nodes, first_row, row_step, num_classes, num_inner, num_mixed,
    NODES: tl.constexpr, KIDS: tl.constexpr,
):  # fmt: skip
    """The log-sums of mixed nodes, from those of the tree's places."""
    work: tl.constexpr = scratch.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    logits += (first_row + slot) * row_step
    maxima = scratch + slot * 2 * (num_inner + num_mixed)
    sums = Sums(maxima, maxima + num_inner + num_mixed)
    for start in tl.range(0, num_mixed, NODES, num_stages=1):
        x = start + tl.arange(0, NODES)
        there = x < num_mixed
        first = tl.load(nodes.part_ptr + x, mask=there, other=0)
        last = tl.load(nodes.part_ptr + x + 1, mask=there, other=0)
        most = tl.max(last - first, axis=0)
        highest = tl.zeros((NODES, KIDS), work) + float("-inf")
        for more in tl.range(0, most, KIDS, num_stages=1):
            part, mask = _parts(first, last, more, there, nodes.part, KIDS)
            highest = tl.maximum(highest, sums_at(part, mask, logits, sums, num_classes).max)
        top = tl.max(highest, axis=1)
        shift = finite(top)
        total = tl.zeros((NODES,), tl.float64)
        for more in tl.range(0, most, KIDS, num_stages=1):
            part, mask = _parts(first, last, more, there, nodes.part, KIDS)
            below = sums_at(part, mask, logits, sums, num_classes)
            each = below.sum * tl.exp(below.max - shift[:, None])
            total += tl.sum(tl.where(mask, each, 0.0).to(tl.float64), axis=1)
        tl.store(sums.max + num_inner + x, top, mask=there)
        tl.store(sums.sum + num_inner + x, total.to(work), mask=there)


@triton.jit(do_not_specialize=_SIZES)
def mixed_sums_kernel(
    values, scratch, nodes, first_row, row_step, num_classes, num_inner, num_mixed,
    NODES: tl.constexpr, KIDS: tl.constexpr,
):  # fmt: skip
    """The plain sums of mixed nodes, from those of the tree's places."""
    work: tl.constexpr = scratch.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    values += (first_row + slot) * row_step
    sums = scratch + slot * (num_inner + num_mixed)
    for start in tl.range(0, num_mixed, NODES, num_stages=1):
        x = start + tl.arange(0, NODES)
        there = x < num_mixed
        first = tl.load(nodes.part_ptr + x, mask=there, other=0)
        last = tl.load(nodes.part_ptr + x + 1, mask=there, other=0)
        total = tl.zeros((NODES,), tl.float64)
        for more in tl.range(0, tl.max(last - first, axis=0), KIDS, num_stages=1):
            part, mask = _parts(first, last, more, there, nodes.part, KIDS)
            is_column, is_inner = part < num_classes, part >= num_classes
            of_column = tl.load(values + part, mask=mask & is_column, other=0.0).to(work)
            of_inner = tl.load(sums + part - num_classes, mask=mask & is_inner, other=0.0)
            each = tl.where(is_column, of_column, of_inner)
            total += tl.sum(tl.where(mask, each, 0.0).to(tl.float64), axis=1)
        tl.store(sums + num_inner + x, total.to(work), mask=there)


@triton.jit(do_not_specialize=_SIZES)
def handed_kernel(
    values, handed, nodes, node_of_place, first_row, row_step, num_places, BLOCK: tl.constexpr
):  # fmt: skip
    """For every place of a row's tree the sum of the mixed nodes' values that it is part of."""
    slot = tl.program_id(0).to(tl.int64)
    values += (first_row + slot) * row_step
    handed += slot * num_places
    for start in tl.range(0, num_places, BLOCK, num_stages=1):
        place = start + tl.arange(0, BLOCK)
        there = place < num_places
        first = tl.load(nodes.holder_ptr + place, mask=there, other=0)
        last = tl.load(nodes.holder_ptr + place + 1, mask=there, other=0)
        total = tl.zeros((BLOCK,), tl.float64)
        for more in tl.range(0, tl.max(last - first, axis=0), num_stages=1):
            mask = first + more < last
            x = tl.load(nodes.holder + first + more, mask=mask, other=0)
            node = tl.load(node_of_place + num_places + x, mask=mask, other=0)
            total += tl.load(values + node, mask=mask, other=0.0).to(tl.float64)
        tl.store(handed + place, total.to(handed.dtype.element_ty), mask=there)
