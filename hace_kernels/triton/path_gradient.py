"""The gradient of a row's whole strips and of its pieces, from the rings' coefficients."""

from __future__ import annotations

import triton
import triton.language as tl

from .log_sums import exp_of_difference, finite
from .path_pieces import grad_of, load_pieces, pieces_of
from .path_rings import INSIDE_MAX, OF_INTERVAL, OF_ROW, OFFSET

__all__ = [
    "strip_gradient",
    "write_pieces",
]


@triton.jit
def strip_gradient(gap, e, top, strips, rings, terms, with_entropy: tl.constexpr):
    """The gradient of whole strips, from their exponentials relative to their maxima."""
    ring, whole = strips.ring, strips.whole
    of_row = tl.load(rings.at + OF_ROW * rings.step + ring, mask=whole, other=0.0)
    of_interval = tl.load(rings.at + OF_INTERVAL * rings.step + ring, mask=whole, other=0.0)
    inside_max = tl.load(rings.at + INSIDE_MAX * rings.step + ring, mask=whole, other=0.0)
    offset = tl.load(rings.at + OFFSET * rings.step + ring, mask=whole, other=0.0)
    to_row = exp_of_difference(top, terms.max)
    # As in `measure`, the error of tl.exp is nothing beside the interval's largest exponential, 1.
    of_strip = of_row * to_row - of_interval * tl.exp(top - finite(inside_max))
    g = of_strip[:, None] * e
    if with_entropy:
        below = tl.where(to_row == 0, 0.0, finite(top) - terms.max + terms.middle)
        more = (terms.slope * to_row)[:, None] * e * (gap + below[:, None])
        g += tl.where(e == 0, 0.0, more)
    return g + offset[:, None]


@triton.jit
def write_pieces(row, path, rings, terms, factor, cut, with_entropy: tl.constexpr):
    work: tl.constexpr = rings.at.dtype.element_ty
    for first in tl.range(0, path.length + 1, cut.rings, num_stages=1):
        begin, end = pieces_of(first, path, row.columns, cut)
        z, column, mask = load_pieces(begin, end, row, cut, work)
        ring = first + tl.arange(0, 4 * cut.rings) % cut.rings
        there = begin < end
        of_row = tl.load(rings.at + OF_ROW * rings.step + ring, mask=there, other=0.0)
        of_interval = tl.load(rings.at + OF_INTERVAL * rings.step + ring, mask=there, other=0.0)
        inside_max = tl.load(rings.at + INSIDE_MAX * rings.step + ring, mask=there, other=0.0)
        offset = tl.load(rings.at + OFFSET * rings.step + ring, mask=there, other=0.0)
        inside_max = finite(inside_max)
        to_row = exp_of_difference(inside_max, terms.max)
        e = tl.exp(z - inside_max[:, None])  # as in `measure`
        g = (of_row * to_row - of_interval)[:, None] * e
        if with_entropy:
            of_all = to_row[:, None] * e
            more = terms.slope * of_all * (z - terms.max + terms.middle)
            g += tl.where(of_all == 0, 0.0, more)
        g = tl.where(factor == 0, 0.0, g + offset[:, None])
        tl.store(grad_of(row) + column, g.to(row.grad.dtype.element_ty), mask=mask)
