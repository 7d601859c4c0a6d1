"""Mixed nodes of a DAG (`SpanningTree`): their sums, and what they hand to places of the tree.

The columns below a mixed node are those of its parts, places of the spanning tree that have no
column in common: its sum is the sum of theirs. One program per row. In the ops over nodes, mixed
nodes have sums after the inner places' in scratch memory.

Bytes per row: a part's sum is read from the L2 cache, twice if it is a log-sum (8 bytes each in
float32), and a mixed node's is written once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .exp import exp
from .lists import bounds_of, items_of
from .log_sums import LogSum, finite
from .tree_sweeps import Sums

__all__ = [
    "MixedNodes",
    "handed_kernel",
    "log_sums_at",
    "log_sums_of_parts",
    "mixed_log_sums_kernel",
    "mixed_sums_kernel",
]

# Triton compiles a kernel again for some values of its integer arguments, but not of these.
_SIZES = ("first_row", "row_step", "num_classes", "num_inner", "num_mixed", "num_places")


class MixedNodes(NamedTuple):
    """Pointers to a `SpanningTree`'s mixed nodes and to the number of columns below each place."""

    part_ptr: Any
    part: Any
    holder_ptr: Any
    holder: Any
    num_columns: Any


@triton.jit
def log_sums_at(place, mask, logits, sums, num_classes):
    """The log-sums of places."""
    work: tl.constexpr = sums.sum.dtype.element_ty
    is_column, is_inner = mask & (place < num_classes), mask & (place >= num_classes)
    logit = tl.load(logits + place, mask=is_column, other=float("-inf")).to(work)
    top = tl.load(sums.max + place - num_classes, mask=is_inner, other=float("-inf"))
    total = tl.load(sums.sum + place - num_classes, mask=is_inner, other=0.0)
    return LogSum(tl.where(is_column, logit, top), tl.where(is_column, 1.0, total))


@triton.jit
def log_sums_of_parts(first, last, most, logits, sums, nodes, num_classes, kids: tl.constexpr):
    """The log-sums of mixed nodes. Their sums are added up, and returned, in float64."""
    work: tl.constexpr = sums.sum.dtype.element_ty
    highest = tl.zeros((first.shape[0], kids), work) + float("-inf")
    for more in tl.range(0, most, kids, num_stages=1):
        part, mask = items_of(nodes.part, first, last, more, kids)
        highest = tl.maximum(highest, log_sums_at(part, mask, logits, sums, num_classes).max)
    top = tl.max(highest, axis=1)
    shift = finite(top)
    total = tl.zeros((first.shape[0],), tl.float64)
    for more in tl.range(0, most, kids, num_stages=1):
        part, mask = items_of(nodes.part, first, last, more, kids)
        below = log_sums_at(part, mask, logits, sums, num_classes)
        each = below.sum * exp(below.max - shift[:, None])
        total += tl.sum(tl.where(mask, each, 0.0).to(tl.float64), axis=1)
    return LogSum(top, total)


@triton.jit(do_not_specialize=_SIZES)
def mixed_log_sums_kernel(
    logits, scratch, nodes, first_row, row_step, num_classes, num_inner, num_mixed, tile
):
    """The log-sums of mixed nodes, from those of the tree's places."""
    work: tl.constexpr = scratch.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    logits += (first_row + slot) * row_step
    maxima = scratch + slot * 2 * (num_inner + num_mixed)
    sums = Sums(maxima, maxima + num_inner + num_mixed)
    for start in tl.range(0, num_mixed, tile.nodes, num_stages=1):
        x = start + tl.arange(0, tile.nodes)
        there = x < num_mixed
        first, last, most = bounds_of(nodes.part_ptr, x, there)
        of = log_sums_of_parts(first, last, most, logits, sums, nodes, num_classes, tile.kids)
        tl.store(sums.max + num_inner + x, of.max, mask=there)
        tl.store(sums.sum + num_inner + x, of.sum.to(work), mask=there)


@triton.jit(do_not_specialize=_SIZES)
def mixed_sums_kernel(
    values, scratch, nodes, first_row, row_step, num_classes, num_inner, num_mixed, tile
):
    """The plain sums of mixed nodes, from those of the tree's places."""
    work: tl.constexpr = scratch.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    values += (first_row + slot) * row_step
    sums = scratch + slot * (num_inner + num_mixed)
    for start in tl.range(0, num_mixed, tile.nodes, num_stages=1):
        x = start + tl.arange(0, tile.nodes)
        there = x < num_mixed
        first, last, most = bounds_of(nodes.part_ptr, x, there)
        total = tl.zeros((tile.nodes,), tl.float64)
        for more in tl.range(0, most, tile.kids, num_stages=1):
            part, mask = items_of(nodes.part, first, last, more, tile.kids)
            is_column, is_inner = part < num_classes, part >= num_classes
            of_column = tl.load(values + part, mask=mask & is_column, other=0.0).to(work)
            of_inner = tl.load(sums + part - num_classes, mask=mask & is_inner, other=0.0)
            each = tl.where(is_column, of_column, of_inner)
            total += tl.sum(tl.where(mask, each, 0.0).to(tl.float64), axis=1)
        tl.store(sums + num_inner + x, total.to(work), mask=there)


@triton.jit(do_not_specialize=_SIZES)
def handed_kernel(
    values, handed, nodes, node_of_place, first_row, row_step, num_places, tile
):  # fmt: skip
    """For every place of a row's tree the sum of the mixed nodes' values that it is part of."""
    block: tl.constexpr = tile.nodes * tile.kids
    slot = tl.program_id(0).to(tl.int64)
    values += (first_row + slot) * row_step
    handed += slot * num_places
    for start in tl.range(0, num_places, block, num_stages=1):
        place = start + tl.arange(0, block)
        there = place < num_places
        first, last, most = bounds_of(nodes.holder_ptr, place, there)
        total = tl.zeros((block,), tl.float64)
        for more in tl.range(0, most, num_stages=1):
            mask = first + more < last
            x = tl.load(nodes.holder + first + more, mask=mask, other=0)
            node = tl.load(node_of_place + num_places + x, mask=mask, other=0)
            total += tl.load(values + node, mask=mask, other=0.0).to(tl.float64)
        tl.store(handed + place, total.to(handed.dtype.element_ty), mask=there)
