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

from .exp import exp
from .lists import bounds_of, items_of
from .log_sums import LogSum, finite
from .mixed_nodes_kernel import log_sums_at, log_sums_of_parts
from .rows_kernel import number
from .tree_pull_kernel import HEAD, lose, places_at, row_sums_at
from .tree_sweeps import Sums, level_of, num_levels_of, parts_of

__all__ = ["DagLinks", "mixed_kernel", "rise_kernel"]

_HEAD = tl.constexpr(HEAD)

# Triton compiles a kernel again for some values of its integer arguments, but not of these.
_SIZES = (
    "num_nodes", "num_places", "first_row", "row_step", "mass_step", "num_classes", "num_inner",
    "num_mixed",
)  # fmt: skip


class DagLinks(NamedTuple):
    """Pointers to the links that mass rises along, as in `spanning_tree.SpanningTree`.

    Attributes:
        keep: float64 by node, the part of its mass that it keeps.
        handed: float64 by node, the part of its mass that it hands to each of its parents.
    """

    place: Any
    by_height: Any
    levels: Any
    child_ptr: Any
    child: Any
    keep: Any
    handed: Any


@triton.jit(do_not_specialize=_SIZES)
def rise_kernel(reached, kept, links, num_nodes, num_places, tile):
    """Lets a row's mass by node rise, and stores by place what is kept. One program per row."""
    nodes: tl.constexpr = tile.nodes
    kids: tl.constexpr = tile.kids
    work: tl.constexpr = kept.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    reached += slot * num_nodes
    kept += slot * num_places
    for level in tl.range(1, num_levels_of(links), num_stages=1):
        begin, end = level_of(links, level)
        tl.debug_barrier()
        for start in tl.range(begin, end, nodes, num_stages=1):
            i = start + tl.arange(0, nodes)
            there = i < end
            v = tl.load(links.by_height + i, mask=there, other=0)
            first, last, most = bounds_of(links.child_ptr, v, there)
            risen = tl.zeros((nodes,), tl.float64)
            for more in tl.range(0, most, kids, num_stages=1):
                child, mask = items_of(links.child, first, last, more, kids)
                mass = tl.load(reached + child, mask=mask, other=0.0).to(tl.float64)
                risen += tl.sum(mass * tl.load(links.handed + child, mask=mask, other=0.0), axis=1)
            own = tl.load(reached + v, mask=there, other=0.0).to(tl.float64)
            tl.store(reached + v, (own + risen).to(work), mask=there)
    tl.debug_barrier()
    for start in tl.range(0, num_nodes, nodes * kids, num_stages=1):
        v = start + tl.arange(0, nodes * kids)
        there = v < num_nodes
        place = tl.load(links.place + v, mask=there, other=-1)
        mass = tl.load(reached + v, mask=there, other=0.0).to(tl.float64)
        q = mass * tl.load(links.keep + v, mask=there, other=0.0)
        tl.store(kept + place, q.to(work), mask=place >= 0)


@triton.jit(do_not_specialize=_SIZES)
def mixed_kernel(
    rows, mass, scratch, nodes, first_row, row_step, mass_step, num_classes, num_inner, num_mixed,
    tile,
):  # fmt: skip
    """Adds the mixed nodes' loss and mass to the row's sums, and hands their mass to their parts.

    One program per row. `mass.at` has the mass of mixed nodes after that of places, and mixed nodes
    keep all of it. If `mass.keep` is None, it has that of mixed nodes alone, and they keep none
    where all their columns are -inf. What places get is written to `mass.handed`. `scratch.mixed`
    holds for each mixed node its largest logit, and its mass divided by its sum, or by its number
    of columns where all of these are -inf.
    """
    block: tl.constexpr = tile.nodes * tile.kids
    has_eps: tl.constexpr = rows.eps is not None
    work: tl.constexpr = scratch.places.dtype.element_ty
    slot = tl.program_id(0).to(tl.int64)
    logits = rows.logits + (first_row + slot) * row_step
    maxima, totals, _ = places_at(slot, scratch, num_inner)
    sums = Sums(maxima, totals)
    num_places = num_classes + num_inner
    at = mass.at + slot * mass_step
    if mass.keep is not None:
        at += num_places
    handed = mass.handed + slot * num_places
    tops = scratch.mixed + slot * 2 * num_mixed
    scales = tops + num_mixed
    parts = parts_of(tile, num_classes, num_inner)
    row_sums = row_sums_at(slot, scratch, parts)
    eps = number(rows.eps).to(work) if has_eps else 0.0
    row = LogSum(finite(tl.load(sums.max + num_inner - 1)), tl.load(sums.sum + num_inner - 1))

    lost, pulled = tl.zeros((tile.nodes,), tl.float64), tl.zeros((tile.nodes,), tl.float64)
    for start in tl.range(0, num_mixed, tile.nodes, num_stages=1):
        x = start + tl.arange(0, tile.nodes)
        there = x < num_mixed
        first, last, most = bounds_of(nodes.part_ptr, x, there)
        of = log_sums_of_parts(first, last, most, logits, sums, nodes, num_classes, tile.kids)
        columns = tl.zeros((tile.nodes,), tl.int32)
        for more in tl.range(0, most, tile.kids, num_stages=1):
            part, mask = items_of(nodes.part, first, last, more, tile.kids)
            columns += tl.sum(tl.load(nodes.num_columns + part, mask=mask, other=0), axis=1)
        total = of.sum.to(work)
        q = tl.load(at + x, mask=there, other=0.0)
        if mass.keep is None:
            q = tl.where(total == 0, 0.0, q)
        loss, pulls = lose(q, LogSum(finite(of.max), total), row, eps, has_eps)
        lost += tl.where(there, loss, 0.0)
        pulled += tl.where(there, pulls, 0.0)
        divisor = tl.where(of.max == float("-inf"), columns.to(work), total)
        tl.store(tops + x, of.max, mask=there)
        tl.store(scales + x, tl.where(pulls == 0, 0.0, pulls / divisor), mask=there)
    tl.store(row_sums + 2, tl.sum(lost, axis=0))
    mass_at = row_sums + (_HEAD + parts if has_eps else 0)
    tl.store(mass_at, tl.load(mass_at) + tl.sum(pulled, axis=0))
    tl.debug_barrier()

    for start in tl.range(0, num_places, block, num_stages=1):
        place = start + tl.arange(0, block)
        there = place < num_places
        first, last, most = bounds_of(nodes.holder_ptr, place, there)
        below = log_sums_at(place, there & (first < last), logits, sums, num_classes)
        columns = tl.load(nodes.num_columns + place, mask=there, other=1).to(work)
        put = tl.zeros((block,), tl.float64)
        for more in tl.range(0, most, num_stages=1):
            mask = first + more < last
            x = tl.load(nodes.holder + first + more, mask=mask, other=0)
            top = tl.load(tops + x, mask=mask, other=0.0)
            share = below.sum * exp(below.max - finite(top))
            share = tl.where(top == float("-inf"), columns, share)
            scale = tl.load(scales + x, mask=mask, other=0.0)
            put += tl.where(mask & (scale != 0), scale * share, 0.0).to(tl.float64)
        tl.store(handed + place, put.to(work), mask=there)
