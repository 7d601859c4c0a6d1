"""Masses: what strips, pieces and rings of a row weigh, as log-sums with a moment."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .exp import exp
from .log_sums import finite, merge, merge_among
from .path_pieces import load_pieces, pieces_of, ring_of_strips

__all__ = [
    "Mass",
    "Memory",
    "Strips",
    "measure",
    "merge_all",
    "merge_masses",
    "ring_masses",
]


class Mass(NamedTuple):
    """A log-sum and its moment sum_j e^(z_j - max) (z_j - max), which the entropy term needs."""

    max: Any
    sum: Any
    moment: Any


class Strips(NamedTuple):
    """Strips in registers: their masses, the ring that each begins in, whether each is whole."""

    mass: Any
    ring: Any
    whole: Any


class Memory(NamedTuple):
    """A pointer to the values of several fields; each field begins `step` after the one before."""

    at: Any
    step: Any


@triton.jit
def measure(z, with_moment: tl.constexpr):
    """For every line of z: its mass, its logits relative to its max, and their exponentials."""
    top = tl.max(z, axis=1)
    gap = z - finite(top)[:, None]
    e = tl.exp(gap)  # whose error, where the gap is wide, is nothing beside 1, the largest one
    total = tl.sum(e, axis=1)
    moment = tl.zeros_like(total)
    if with_moment:
        moment = tl.sum(tl.where(e == 0, 0.0, e * gap), axis=1)
    return Mass(top, total, moment), gap, e


@triton.jit
def _moment_at(mass, new_max):
    """The moment about another maximum; the gap may overflow between two finite numbers."""
    gap = tl.where(mass.sum == 0, 0.0, mass.max - new_max)
    e = exp(gap)
    return tl.where(e == 0, 0.0, e * (mass.moment + gap * mass.sum))


@triton.jit
def merge_masses(a, b, with_moment: tl.constexpr):
    both = merge(a, b)
    moment = a.moment
    if with_moment:
        moment = _moment_at(a, finite(both.max)) + _moment_at(b, finite(both.max))
    return Mass(both.max, both.sum, moment)


@triton.jit
def merge_all(mass, with_moment: tl.constexpr):
    """All masses along the first axis, merged."""
    best = tl.max(mass.max, axis=0)
    shift = finite(best)
    if len(mass.max.shape) == 2:
        shift = shift[None, :]
    total = tl.sum(mass.sum * exp(mass.max - shift), axis=0)
    moment = total
    if with_moment:
        moment = tl.sum(_moment_at(mass, shift), axis=0)
    return Mass(best, total, moment)


@triton.jit
def _add_strips(so_far, ring, strips, with_moment: tl.constexpr):
    """Merges whole strips into the masses of their rings."""
    among = (strips.ring[None, :] == ring[:, None]) & strips.whole[None, :]
    more = merge_among(strips.mass, among)
    moment = so_far.moment
    if with_moment:
        each = strips.mass
        each = Mass(each.max[None, :], each.sum[None, :], each.moment[None, :])
        moved = _moment_at(each, finite(more.max)[:, None])
        moment = tl.sum(tl.where(among, moved, 0.0), axis=1)
    return merge_masses(so_far, Mass(more.max, more.sum, moment), with_moment)


@triton.jit
def _load_strips(strip, memory, path, columns, cut, with_moment: tl.constexpr):
    there = strip < memory.step
    top = tl.load(memory.at + strip, mask=there, other=float("-inf"))
    total = tl.load(memory.at + memory.step + strip, mask=there, other=0.0)
    moment = total
    if with_moment:
        moment = tl.load(memory.at + 2 * memory.step + strip, mask=there, other=0.0)
    ring, whole = ring_of_strips(strip, path, columns, cut)
    return Strips(Mass(top, total, moment), ring, whole)


@triton.jit
def ring_masses(
    first_ring, row, path, strips, cut,
    split: tl.constexpr, with_moment: tl.constexpr, work: tl.constexpr,
):  # fmt: skip
    """The mass of each ring: that of its whole strips and of its pieces."""
    ring = first_ring + tl.arange(0, cut.rings)
    zero = tl.zeros_like(ring).to(work)
    mass = Mass(zero + float("-inf"), zero, zero)
    if split:
        for first in tl.range(0, strips.step, cut.strips, num_stages=1):
            strip = first + tl.arange(0, cut.strips)
            some = _load_strips(strip, strips, path, row.columns, cut, with_moment)
            mass = _add_strips(mass, ring, some, with_moment)
    else:
        mass = _add_strips(mass, ring, strips, with_moment)
    begin, end = pieces_of(first_ring, path, row.columns, cut)
    z, _, _ = load_pieces(begin, end, row, cut, work)
    of_pieces, _, _ = measure(z, with_moment)
    of_pieces = Mass(
        tl.reshape(of_pieces.max, (4, cut.rings)),
        tl.reshape(of_pieces.sum, (4, cut.rings)),
        tl.reshape(of_pieces.moment, (4, cut.rings)),
    )
    return merge_masses(mass, merge_all(of_pieces, with_moment), with_moment)
