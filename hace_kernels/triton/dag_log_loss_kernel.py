"""The kernels that `dag_log_loss` needs beside those of `tree_log_loss`.

A tree of the DAG's links (`SpanningTree`) is swept like any tree, with the mass that its places
keep. A *mixed* node u is not a place of that tree. The columns below it are those of its *parts*,
places of the tree that have no column in common, so that S_u = sum over parts t of S_t. Its
gradient is that of the mass q_u S_t / S_u on each part: every share is at most 1, and nothing is
subtracted.

Mass rises along all links of the DAG, level by level. A node gets from its children

    m_v += sum over children c of (1 - keep_c) / (number of c's parents) m_c

Whoever needs a sum adds it up by itself, in a fixed order: a node over its children and over its
parts, a place over the mixed nodes that it is part of. So there are no atomics.

Bytes per row in float32, beside those of the tree: the mass of a node is written and read twice
(16N), and the mass handed to places is written and read once (8P).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .log_sums import LogSum, finite
from .rows_kernel import number
from .tree_pull_kernel import HEAD, lose
from .tree_sweeps import Sums

__all__ = ["DagLinks", "MixedNodes", "mixed_kernel", "rise_kernel", "sums_at"]

_HEAD = tl.constexpr(HEAD)

# Triton compiles a kernel again for some values of its integer arguments, but not of these.
_SIZES = (
    "num_levels", "num_nodes", "num_places", "num_mixed", "first_row", "row_step", "parts",
    "num_classes", "num_inner", "eps_bits", "kept_step",
)  # fmt: skip


class DagLinks(NamedTuple):
    """Pointers to the links that mass rises along, as in `spanning_tree.SpanningTree`.

    Attributes:
        keep: float64 by node, the part of its mass that it keeps.
        handed: float64 by node, the part of its mass that it hands to each of its parents.
    """

    place: Any
    by_height: Any
    height_ptr: Any
    child_ptr: Any
    child: Any
    keep: Any
    handed: Any


class MixedNodes(NamedTuple):
    """Pointers to a `SpanningTree`'s mixed nodes and to the number of columns below each place."""

    part_ptr: Any
    part: Any
    holder_ptr: Any
    holder: Any
    num_columns: Any


@triton.jit(do_not_specialize=_SIZES)
def rise_kernel(
    reached, kept, links, num_levels, num_nodes, num_places,
    NODES: tl.constexpr, KIDS: tl.constexpr,
):  # fmt: skip
    """Lets a row's mass by node rise, and stores by place what is kept. One program per row."""
    block: tl.constexpr = NODES * KIDS
    work: tl.constexpr = kept.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    reached += slot * num_nodes
    kept += slot * num_places
    for level in tl.range(1, num_levels, num_stages=1):
        begin, end = tl.load(links.height_ptr + level), tl.load(links.height_ptr + level + 1)
        tl.debug_barrier()
        for start in tl.range(begin, end, NODES, num_stages=1):
            i = start + tl.arange(0, NODES)
            there = i < end
            v = tl.load(links.by_height + i, mask=there, other=0)
            first = tl.load(links.child_ptr + v, mask=there, other=0)
            last = tl.load(links.child_ptr + v + 1, mask=there, other=0)
            risen = tl.zeros((NODES,), tl.float64)
            for more in tl.range(0, tl.max(last - first, axis=0), KIDS, num_stages=1):
                at = first[:, None] + more + tl.arange(0, KIDS)[None, :]
                mask = there[:, None] & (at < last[:, None])
                child = tl.load(links.child + at, mask=mask, other=0)
                mass = tl.load(reached + child, mask=mask, other=0.0).to(tl.float64)
                risen += tl.sum(mass * tl.load(links.handed + child, mask=mask, other=0.0), axis=1)
            own = tl.load(reached + v, mask=there, other=0.0).to(tl.float64)
            tl.store(reached + v, (own + risen).to(work), mask=there)
    tl.debug_barrier()
    for start in tl.range(0, num_nodes, block, num_stages=1):
        v = start + tl.arange(0, block)
        there = v < num_nodes
        place = tl.load(links.place + v, mask=there, other=-1)
        mass = tl.load(reached + v, mask=there, other=0.0).to(tl.float64)
        q = mass * tl.load(links.keep + v, mask=there, other=0.0)
        tl.store(kept + place, q.to(work), mask=place >= 0)


@triton.jit
def sums_at(place, mask, logits, sums, num_classes):
    """The log-sums of places."""
    work: tl.constexpr = sums.sum.dtype.element_ty
    is_column, is_inner = mask & (place < num_classes), mask & (place >= num_classes)
    logit = tl.load(logits + place, mask=is_column, other=float("-inf")).to(work)
    top = tl.load(sums.max + place - num_classes, mask=is_inner, other=float("-inf"))
    total = tl.load(sums.sum + place - num_classes, mask=is_inner, other=0.0)
    return LogSum(tl.where(is_column, logit, top), tl.where(is_column, 1.0, total))


@triton.jit(do_not_specialize=_SIZES)
def mixed_kernel(
    logits, kept, handed, scratch, of_mixed, row_sums, nodes, kept_step, first_row, row_step, parts,
    num_classes, num_inner, num_mixed, eps_bits, SPREADS: tl.constexpr, NODES: tl.constexpr,
    KIDS: tl.constexpr,
):  # fmt: skip
    """Adds the mixed nodes' loss and mass to the row's sums, and hands their mass to their parts.

    One program per row. `kept` is the mass of mixed nodes, and its rows are `kept_step` apart.
    `of_mixed` holds for each mixed node its largest logit, and its mass divided by its sum, or by
    its number of columns where all of these are -inf: unless SPREADS, it keeps no mass there.
    """
    block: tl.constexpr = NODES * KIDS
    has_eps: tl.constexpr = eps_bits is not None
    work: tl.constexpr = scratch.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    logits += (first_row + slot) * row_step
    maxima = scratch + slot * 3 * num_inner
    sums = Sums(maxima, maxima + num_inner)
    num_places = num_classes + num_inner
    kept += slot * kept_step
    handed += slot * num_places
    tops = of_mixed + slot * 2 * num_mixed
    scales = tops + num_mixed
    row_sums += slot * (_HEAD + 3 * parts)
    eps = number(eps_bits).to(work) if has_eps else 0.0
    row = LogSum(finite(tl.load(sums.max + num_inner - 1)), tl.load(sums.sum + num_inner - 1))

    lost, pulled = tl.zeros((NODES,), tl.float64), tl.zeros((NODES,), tl.float64)
    for start in tl.range(0, num_mixed, NODES, num_stages=1):
        x = start + tl.arange(0, NODES)
        there = x < num_mixed
        first = tl.load(nodes.part_ptr + x, mask=there, other=0)
        last = tl.load(nodes.part_ptr + x + 1, mask=there, other=0)
        most = tl.max(last - first, axis=0)
        highest = tl.zeros((NODES, KIDS), work) + float("-inf")
        for more in tl.range(0, most, KIDS, num_stages=1):
            at = first[:, None] + more + tl.arange(0, KIDS)[None, :]
            mask = there[:, None] & (at < last[:, None])
            part = tl.load(nodes.part + at, mask=mask, other=0)
            highest = tl.maximum(highest, sums_at(part, mask, logits, sums, num_classes).max)
        top = tl.max(highest, axis=1)
        shift = finite(top)
        wide, columns = tl.zeros((NODES,), tl.float64), tl.zeros((NODES,), tl.int32)
        for more in tl.range(0, most, KIDS, num_stages=1):
            at = first[:, None] + more + tl.arange(0, KIDS)[None, :]
            mask = there[:, None] & (at < last[:, None])
            part = tl.load(nodes.part + at, mask=mask, other=0)
            below = sums_at(part, mask, logits, sums, num_classes)
            each = below.sum * tl.exp(below.max - shift[:, None])
            wide += tl.sum(tl.where(mask, each, 0.0).to(tl.float64), axis=1)
            columns += tl.sum(tl.load(nodes.num_columns + part, mask=mask, other=0), axis=1)
        total = wide.to(work)
        q = tl.load(kept + x, mask=there, other=0.0)
        if not SPREADS:
            q = tl.where(total == 0, 0.0, q)
        loss, pulls = lose(q, LogSum(shift, total), row, eps, has_eps)
        lost += tl.where(there, loss, 0.0)
        pulled += tl.where(there, pulls, 0.0)
        divisor = tl.where(top == float("-inf"), columns.to(work), total)
        tl.store(tops + x, top, mask=there)
        tl.store(scales + x, tl.where(pulls == 0, 0.0, pulls / divisor), mask=there)
    tl.store(row_sums + 2, tl.sum(lost, axis=0))
    mass_at = row_sums + (_HEAD + parts if has_eps else 0)
    tl.store(mass_at, tl.load(mass_at) + tl.sum(pulled, axis=0))
    tl.debug_barrier()

    for start in tl.range(0, num_places, block, num_stages=1):
        place = start + tl.arange(0, block)
        there = place < num_places
        first = tl.load(nodes.holder_ptr + place, mask=there, other=0)
        last = tl.load(nodes.holder_ptr + place + 1, mask=there, other=0)
        below = sums_at(place, there & (first < last), logits, sums, num_classes)
        columns = tl.load(nodes.num_columns + place, mask=there, other=1).to(work)
        put = tl.zeros((block,), tl.float64)
        for more in tl.range(0, tl.max(last - first, axis=0), num_stages=1):
            mask = first + more < last
            x = tl.load(nodes.holder + first + more, mask=mask, other=0)
            top = tl.load(tops + x, mask=mask, other=0.0)
            share = below.sum * tl.exp(below.max - finite(top))
            share = tl.where(top == float("-inf"), columns, share)
            scale = tl.load(scales + x, mask=mask, other=0.0)
            put += tl.where(mask & (scale != 0), scale * share, 0.0).to(tl.float64)
        tl.store(handed + place, put.to(work), mask=there)
