"""Where the positions of a row lie on a path: its rings, strips and pieces.

`path_log_loss_kernel` explains the words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

__all__ = [
    "Cut",
    "Path",
    "Row",
    "at_positions",
    "grad_of",
    "load_pieces",
    "pieces_of",
    "ring_of_strips",
]

_ONE = tl.constexpr(1)


class Cut(NamedTuple):
    """How a row is cut, as constants of a kernel.

    Attributes:
        vector: a divisor of all row lengths and strides.
        strip: positions per strip.
        strips: the number of strips that a program handles together.
        fields: the number of values that are stored per strip where rows are split.
        rings: the number of rings that a program handles together.
        steps: the steps of a bisection among the intervals of the longest path.
    """

    vector: Any
    strip: Any
    strips: Any
    fields: Any
    rings: Any
    steps: Any


class Row(NamedTuple):
    """One row.

    Attributes:
        number: its number.
        logits: a pointer to its logits.
        grad: a pointer to the gradient of all rows, or None; see `grad_of`.
        order: a pointer to the columns in the order of the class positions, or None.
        columns: the number of columns.
    """

    number: Any
    logits: Any
    grad: Any
    order: Any
    columns: Any


class Path(NamedTuple):
    """The intervals of one target: pointers to the first, and how many there are."""

    start: Any
    stop: Any
    weight: Any
    length: Any


# A function cannot return a tuple with None in it before Triton 3.7, so that kernels make the tuple
# themselves and the gradient's own rows are found here.
@triton.jit
def grad_of(row):
    """Where the gradient of a row is."""
    return row.grad + row.number * row.columns


@triton.jit
def _starts_after(position, path, cut):
    """How many intervals start after each position; starts never rise from entry to entry."""
    number_of = tl.zeros_like(position)
    for step in tl.static_range(cut.steps):
        more = number_of + (_ONE << (cut.steps - 1 - step))
        there = tl.load(path.start + more - 1, mask=more <= path.length, other=-1)
        number_of = tl.where(there > position, more, number_of)
    return number_of


@triton.jit
def _stops_by(position, path, cut):
    """How many intervals stop at or before each position; stops never fall from entry to entry."""
    number_of = tl.zeros_like(position)
    for step in tl.static_range(cut.steps):
        more = number_of + (_ONE << (cut.steps - 1 - step))
        there = tl.load(path.stop + more - 1, mask=more <= path.length, other=0x7FFFFFFF)
        number_of = tl.where(there <= position, more, number_of)
    return number_of


@triton.jit
def ring_of_strips(strip, path, columns, cut):
    """The ring that each strip begins in, and whether it ends there too."""
    begin = strip * cut.strip
    last = tl.minimum(begin + cut.strip, columns) - 1
    after = _starts_after(begin, path, cut)
    by = _stops_by(begin, path, cut)
    whole = after == _starts_after(last, path, cut)
    whole &= by == _stops_by(last, path, cut)
    return tl.maximum(after, by), whole & (begin < columns)


@triton.jit
def _boundary(index, path, columns):
    """The boundary after segment `index`: all starts, the outermost first, and then all stops."""
    of_start = (index >= 0) & (index < path.length)
    of_stop = (index >= path.length) & (index < 2 * path.length)
    at = tl.load(path.start + path.length - 1 - index, mask=of_start, other=0)
    there = tl.load(path.stop + index - path.length, mask=of_stop, other=0)
    return tl.where(of_start, at, tl.where(of_stop, there, tl.where(index < 0, 0, columns)))


@triton.jit
def pieces_of(first_ring, path, columns, cut):
    """The pieces of some rings as [begin, end), in one vector.

    First the heads of all rings' left segments, then the tails of these, then the heads and the
    tails of the right segments. Pieces that do not exist are empty.
    """
    lane = tl.arange(0, 4 * cut.rings)
    ring = first_ring + lane % cut.rings
    is_right = lane >= 2 * cut.rings
    is_tail = (lane // cut.rings) % 2 == 1
    segment = path.length + tl.where(is_right, ring, -ring)
    begin = _boundary(segment - 1, path, columns)
    end = _boundary(segment, path, columns)
    strip_end = (begin // cut.strip + 1) * cut.strip
    head_end = tl.minimum(strip_end, columns)
    tail = end // cut.strip * cut.strip
    is_head = (begin + cut.strip > strip_end) | (end < head_end)  # shorter than its strip
    exists = tl.where(is_tail, (tail >= strip_end) & (end < columns), is_head)
    exists = exists & (ring <= path.length) & ((ring > 0) | (is_right == 0))
    begin = tl.where(is_tail, tail, begin)
    end = tl.where(is_tail, end, tl.minimum(end, head_end))
    return begin, tl.where(exists, end, begin)


@triton.jit
def at_positions(position, mask, order):
    """The columns at class positions."""
    column = position
    if order is not None:
        column = tl.load(order + position, mask=mask, other=0)
    return column


@triton.jit
def load_pieces(begin, end, row, cut, work: tl.constexpr):
    position = (begin // cut.strip * cut.strip)[:, None] + tl.arange(0, cut.strip)[None, :]
    mask = (position >= begin[:, None]) & (position < end[:, None])
    column = at_positions(position, mask, row.order)
    z = tl.load(row.logits + column, mask=mask, other=float("-inf")).to(work)
    return z, column, mask
