"""Sweeps over a tree on the device: one program per row or, in parts, many programs per row.

The sums of inner places (see TreeTable) are in scratch memory, one row after the other, and stay in
the L1 or L2 cache; `sums.max[v]` belongs to inner place C + v. Columns need no scratch memory:
their values are the row itself.

The upward sweep has two parts. First every inner place *folds* (adds up) the columns right below
it. They depend on nothing, so that all places can do this at once, in a long row by many programs.
Then, level by level, every place adds its inner children to that. The downward sweep is the
reverse: first the inner places, level by level, then all columns at once. So only the inner places
have to wait for another level, and the columns, which are most of the places, are read and written
in order.

Places of a level are folded in tiles of `nodes` places by `kids` children. A place with more
children than a few widths of a tile would keep the others waiting: it is left out, and folded
alone, by a tile of 1 by `nodes * kids`. A place's columns come before its inner children in the
table, so that each of the two is folded from its own end of the list.

Half precision is widened right after a load. There are no atomics: the same input gives the same
bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .exp import exp
from .log_sums import LogSum, finite

__all__ = [
    "COLUMNS",
    "IN_COLUMNS",
    "IN_LEVELS",
    "IN_NODES_OUT",
    "LEVELS",
    "NODES_OUT",
    "Mass",
    "Sums",
    "Tile",
    "Tree",
    "fold",
    "fold_levels",
    "fold_up",
    "kept",
    "level_of",
    "num_levels_of",
    "parts_of",
    "pull_down",
    "share_of",
    "share_of_program",
]

# The stages of an op, each of which waits for the one before: what is done for columns, what is
# done level by level, and what is done for nodes at the end.
COLUMNS, LEVELS, NODES_OUT = 1, 2, 4
IN_COLUMNS, IN_LEVELS, IN_NODES_OUT = (tl.constexpr(bit) for bit in (COLUMNS, LEVELS, NODES_OUT))


class Tree(NamedTuple):
    """Pointers to the tensors of a `hace_kernels.TreeTable`.

    `levels` is the number of levels, and after it the table's level_ptr.
    """

    place: Any
    parent: Any
    child_ptr: Any
    child: Any
    num_columns: Any
    levels: Any


class Sums(NamedTuple):
    """Pointers to the sums of a row's inner places.

    Attributes:
        max: for log-sums, the largest logit below each place; None for plain sums.
        sum: the sum, relative to `max`.
        own: for plain sums, what each inner place starts from; None for 0.
    """

    max: Any
    sum: Any
    own: Any = None


class Mass(NamedTuple):
    """Pointers to a row's mass and to what says how it rises.

    Attributes:
        at: the mass by place, or by node where `keep` is None; None where there is no mass.
        keep: float64, the part of its mass that each place keeps; or None.
        node: where `keep` is None, the node of each place, or -1.
        handed: further mass by place that pulls but whose loss is counted elsewhere; or None.
    """

    at: Any = None
    keep: Any = None
    node: Any = None
    handed: Any = None


class Tile(NamedTuple):
    """How rows are divided, as constants of a kernel.

    Attributes:
        nodes: how many places are folded together.
        kids: how many children of each are folded together.
        span: the places of one part of a row; see `parts_of`.
    """

    nodes: Any
    kids: Any
    span: Any


class _Places(NamedTuple):
    """Inner places v with the bounds of their children; `there` masks those that exist."""

    v: Any
    begin: Any
    end: Any
    there: Any


@triton.jit
def parts_of(tile, num_classes, num_inner):
    """How many parts a row has. A stage that is split has a program for each."""
    return tl.cdiv(num_classes + num_inner, tile.span)


@triton.jit
def num_levels_of(tree):
    """The number of levels of a tree."""
    return tl.load(tree.levels)


@triton.jit
def level_of(tree, level):
    """The first inner place of a level, and the first one after it."""
    bounds = tree.levels + 1 + level
    return tl.load(bounds), tl.load(bounds + 1)


# A place whose children fill more than so many widths of a tile is folded alone.
_WIDTHS = tl.constexpr(4)

# How many steps are added up in the working type before the sum goes into a float64.
_RUN = tl.constexpr(8)


@triton.jit
def kept(place, there, alive, mass, work: tl.constexpr):
    """The mass that places keep, and the mass that they hand to their parents.

    Without `mass.keep` every place keeps all its mass, or, if it is not `alive` (has probability
    0), none.
    """
    if mass.keep is None:
        of = tl.load(mass.node + place, mask=there & alive, other=-1)
        q = tl.load(mass.at + of, mask=of >= 0, other=0.0)
        handed = q
    else:
        reached = tl.load(mass.at + place, mask=there, other=0.0)
        share = tl.load(mass.keep + place, mask=there & (reached != 0), other=0.0)
        q = reached * share.to(work)
        handed = reached * (1 - share).to(work)  # in float64, as 1 - share may be far below 1
    return q, handed


@triton.jit
def _children(first, places, child, num_classes, of_columns: tl.constexpr, kids: tl.constexpr):
    """The next `kids` columns (or inner places) of each place, counted from their own end."""
    at = first + tl.arange(0, kids)[None, :]
    begin, end = places.begin[:, None], places.end[:, None]
    position = begin + at if of_columns else end - 1 - at
    mask = places.there[:, None] & (position >= begin) & (position < end)
    place = tl.load(child + position, mask=mask, other=0)
    return place, mask & ((place < num_classes) == of_columns)


@triton.jit
def _fold_places(
    places, most, values, sums, mass, child, num_classes,
    of_columns: tl.constexpr, kids: tl.constexpr,
):  # fmt: skip
    """Folds children into inner places, and returns what the children keep of their mass."""
    v, there = places.v, places.there
    work: tl.constexpr = sums.sum.dtype.element_ty
    minus_infinity: tl.constexpr = float("-inf")
    exponentials: tl.constexpr = sums.max is not None
    so_far = tl.zeros_like(places.begin).to(work)
    if of_columns:
        if sums.own is not None:
            so_far = tl.load(sums.own + v, mask=there, other=0.0).to(work)
    else:
        so_far = tl.load(sums.sum + v, mask=there, other=0.0)

    shift = so_far
    if exponentials:
        highest = tl.zeros((v.shape[0], kids), work) + minus_infinity
        for first in tl.range(0, most, kids, num_stages=1):
            c, mask = _children(first, places, child, num_classes, of_columns, kids)
            if of_columns:
                x = tl.load(values + c, mask=mask, other=minus_infinity).to(work)
            else:
                x = tl.load(sums.max + c - num_classes, mask=mask, other=minus_infinity)
            highest = tl.maximum(highest, x)
        best = tl.max(highest, axis=1)
        if of_columns:
            shift = finite(best)
        else:
            before = tl.load(sums.max + v, mask=there, other=minus_infinity)
            best = tl.maximum(best, before)
            shift = finite(best)
            so_far = so_far * exp(before - shift)
        tl.store(sums.max + v, best, mask=there)

    # A lane's sum is rounded at every step, so after some steps it goes into a wider sum.
    sum_of, rises_of = so_far.to(tl.float64), tl.zeros((v.shape[0],), tl.float64)
    stays_of = tl.zeros((v.shape[0],), tl.float64)
    for run in tl.range(0, most, _RUN * kids, num_stages=1):
        run_end = tl.minimum(run + _RUN * kids, most)
        parts = tl.zeros((v.shape[0], kids), work)
        stays, rises = parts, parts
        for first in tl.range(run, run_end, kids, num_stages=1):
            c, mask = _children(first, places, child, num_classes, of_columns, kids)
            if of_columns:
                x = tl.load(values + c, mask=mask, other=minus_infinity if exponentials else 0.0)
                x = x.to(work)
                share = exp(x - shift[:, None]) if exponentials else x
                alive = mask & (x != minus_infinity)
            else:
                x = tl.load(sums.sum + c - num_classes, mask=mask, other=0.0)
                share = x
                if exponentials:
                    child_max = tl.load(sums.max + c - num_classes, mask=mask, other=minus_infinity)
                    share = x * exp(child_max - shift[:, None])
                alive = mask & (x != 0)
            parts += share
            if mass.at is not None:
                stay, rise = kept(c, mask, alive, mass, work)
                stays += stay
                rises += rise
        sum_of += tl.sum(parts, axis=1).to(tl.float64)
        if mass.at is not None:
            stays_of += tl.sum(stays, axis=1).to(tl.float64)
            rises_of += tl.sum(rises, axis=1).to(tl.float64)
    tl.store(sums.sum + v, sum_of.to(work), mask=there)
    if mass.at is not None:  # noqa: SIM102  (both sides of `and` would be compiled)
        if mass.keep is not None:
            at = mass.at + num_classes + v
            reached = tl.load(at, mask=there, other=0.0).to(tl.float64) + rises_of
            tl.store(at, reached.to(work), mask=there)
    return tl.sum(stays_of, axis=0)


@triton.jit
def fold(first, last, values, sums, mass, tree, num_classes, tile, of_columns: tl.constexpr):
    """Folds the columns, or the inner children, of inner places `first` to `last`.

    With `sums.max`, the result is the log-sum-exp of `values` as exp(max_v) * sum_v, where, over
    the children c,

        max_v = max over c of max_c      sum_v = sum over c of exp(max_c - max_v) sum_c

    and a column has its value as max and the sum 1. Every place has a maximum of its own, so that
    sums of any size keep all their digits; an empty sum has max -inf and sum 0. Without `sums.max`,
    the result is the plain sum of the values and `sums.own`.

    Any `mass` by place rises as well: `mass_v += sum_c (1 - keep_c) mass_c`.
    Without `keep` it stays where it is: see `kept`.

    Returns:
        The mass that the folded children keep, added up in float64.
    """
    stayed = tl.full((), 0.0, tl.float64)
    enough: tl.constexpr = _WIDTHS * tile.kids
    for start in tl.range(first, last, tile.nodes, num_stages=1):
        v = start + tl.arange(0, tile.nodes)
        there = v < last
        begin = tl.load(tree.child_ptr + v, mask=there, other=0)
        end = tl.load(tree.child_ptr + v + 1, mask=there, other=0)
        many = there & (end - begin > enough)
        next_one = begin + enough if of_columns else end - 1 - enough
        next_one = tl.load(tree.child + next_one, mask=many, other=0)
        wide = many & ((next_one < num_classes) == of_columns)
        narrow = there & (wide == 0)
        most = tl.minimum(tl.max(tl.where(narrow, end - begin, 0), axis=0), enough)
        places = _Places(v, begin, end, narrow)
        stayed += _fold_places(
            places, most, values, sums, mass, tree.child, num_classes, of_columns, tile.kids
        )
        after = start
        for _ in tl.range(0, tl.sum(wide.to(tl.int32), axis=0), num_stages=1):
            one = tl.min(tl.where(wide & (v >= after), v, 0x7FFFFFFF), axis=0)
            after = one + 1
            v1 = one + tl.arange(0, 1)
            begin1, end1 = tl.load(tree.child_ptr + v1), tl.load(tree.child_ptr + v1 + 1)
            place = _Places(v1, begin1, end1, v1 >= 0)
            stayed += _fold_places(
                place, tl.max(end1 - begin1, axis=0), values, sums, mass, tree.child, num_classes,
                of_columns, tile.nodes * tile.kids,
            )  # fmt: skip
    return stayed


@triton.jit
def fold_levels(num_levels, values, sums, mass, tree, num_classes, tile):
    """Folds inner children, level by level; places of the deepest level do not have any."""
    stayed = tl.full((), 0.0, tl.float64)
    for level in tl.range(1, num_levels, num_stages=1):
        first, last = level_of(tree, level)
        tl.debug_barrier()
        stayed += fold(first, last, values, sums, mass, tree, num_classes, tile, False)
    tl.debug_barrier()
    return stayed


@triton.jit
def share_of_program(size):
    """What one of a row's programs (the second axis of the grid) does of `size` things."""
    span = tl.cdiv(size, tl.num_programs(1))
    first = tl.program_id(1) * span
    return first, tl.minimum(first + span, size)


@triton.jit
def fold_up(values, sums, tree, num_classes, num_inner, tile, stages: tl.constexpr):
    """The stages of an upward sweep without mass, for one of a row's programs."""
    if IN_COLUMNS & stages:
        first, last = share_of_program(num_inner)
        fold(first, last, values, sums, Mass(), tree, num_classes, tile, True)
    if IN_LEVELS & stages:
        fold_levels(num_levels_of(tree), values, sums, Mass(), tree, num_classes, tile)


@triton.jit
def share_of(child, parent, there, sums, pull):
    """How the pull of inner places is divided among children: in proportion to exponentials.

    `pull[v]` holds the pull of v divided by v's sum. Where all columns below v are -inf, v is
    *dead* and its sum is 0: then it is the pull divided by v's number of columns, and a child's
    share is its own number of columns.

    Returns whether the parents are dead, their `pull`, and the children's exponentials.
    """
    above = tl.load(sums.max + parent, mask=there, other=0.0)
    per_unit = tl.load(pull + parent, mask=there, other=0.0)
    is_dead = above == float("-inf")
    return is_dead, per_unit, exp(child.max - finite(above)) * child.sum


@triton.jit
def pull_down(v, there, q, sums, pull, tree, num_classes):
    """Stores the pull of inner places v (not the root), given that of their parents.

    The gradient of the loss of the masses q_v is, with W = sum_v q_v,

        d/dz_j sum_v q_v (-log P_v) = W p_j - sum_{v above j} q_v exp(z_j - lse_v)

    At a place u, pull_u = W P_u - sum_{v above u} q_v exp(lse_u - lse_v). It follows from the
    parent's alone: pull_u = share_u / sum_parent * pull_parent - q_u, with pull_root = W. The pull
    of a column is the gradient of its logit.
    """
    place = num_classes + v
    above = tl.load(tree.parent + place, mask=there, other=num_classes) - num_classes
    own_max = tl.load(sums.max + v, mask=there, other=float("-inf"))
    own_sum = tl.load(sums.sum + v, mask=there, other=0.0)
    is_dead, per_unit, share = share_of(LogSum(own_max, own_sum), above, there, sums, pull)
    below = tl.load(tree.num_columns + place, mask=there, other=1).to(q.dtype)
    own_pull = per_unit * tl.where(is_dead, below, share) - q
    own_pull = own_pull / tl.where(own_max == float("-inf"), below, own_sum)
    tl.store(pull + v, own_pull, mask=there)
