"""The kernels of `path_log_loss`.

docs/design.md derives the gradient that is computed here. With lse_r the log-sum-exp over interval
r, lse_K that over the whole row, and j in ring r (what interval r adds to the one inside it):

    dL/dz_j = A_r exp(z_j - lse_K) - B_r exp(z_j - lse_r)
    A_r     = sum_{i < r} w_i
    B_r     = sum_{i >= r} w_i (1 - P_i) exp(lse_r - lse_i)

A row is cut into *strips* of a fixed number of class positions. A strip within one ring is *whole*:
its exponentials are relative to its own largest logit, so that nothing underflows, however far
apart the logits of the rings are, and its gradient is one factor times these exponentials. So an
element costs the same however long the paths are. The ring of a strip is found once per strip, by
bisection in the path.

The ends of the intervals cut the row into segments. The part of a segment before its first whole
strip and the part after its last one are *pieces*, shorter than a strip. Ring r consists of two
segments, one on each side (ring 0 of one), and so of up to four pieces and any number of whole
strips. Pieces are read again, from the L1 or L2 cache.

Whatever depends on rings is done for up to `rings` rings at once; longer paths need several steps.
The sums over pairs of rings cost the square of that number, and need no scan.

Each short row has a program of its own (`row_kernel`), which keeps the row's exponentials in
registers: a row is read from memory once (C elements) and its gradient is written once (C). Long
rows are split. `measure_kernel` reads strips and stores the log-sum of each; `resolve_kernel`, with
one program per row, turns them into the loss and the factors; `write_kernel` reads the strips
again, from the L2 cache if the launcher's chunk of rows fits there, and writes the gradient.
Besides, a row costs 8 bytes (with entropy 12) per strip and 36 bytes per interval, in float32.

There are no atomics: the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .log_sums import finite
from .path_gradient import strip_gradient, write_pieces
from .path_masses import Memory, Strips, measure
from .path_pieces import Path, Row, at_positions, grad_of, ring_of_strips
from .path_rings import ROW, RowTerms, resolve, rings_of
from .rows_kernel import divided, times_incoming, weigh

__all__ = [
    "PathTable",
    "Rows",
    "Scratch",
    "measure_kernel",
    "resolve_kernel",
    "row_kernel",
    "write_kernel",
]


class Rows(NamedTuple):
    """Rows of logits, and where their gradients and losses go."""

    logits: Any
    grad: Any = None
    loss: Any = None


class PathTable(NamedTuple):
    """The tensors of a `hace_kernels.PathTable`."""

    ptr: Any
    start: Any
    stop: Any
    weight: Any
    order: Any = None


class Scratch(NamedTuple):
    """Pointers to the memory of rows: fields of their rings and, where rows are split, strips."""

    rings: Any
    strips: Any = None


# Triton compiles a kernel again for some values of its integer arguments, but not of these. They
# are not in a tuple because Triton compiles for the values of all numbers in a tuple.
_SIZES = ("row_vectors", "column_vectors", "num_targets", "ignore_index", "first_row")


@triton.jit
def _path_of(row, targets, table, num_targets, ignore_index):
    """Whether a row's target is valid or ignored, the target's path, and the row's weight."""
    t, valid, weight = weigh(row, row >= 0, targets, num_targets, ignore_index)
    first = tl.load(table.ptr + t, mask=valid, other=0)
    last = tl.load(table.ptr + t + 1, mask=valid, other=0)
    length = (last - first).to(tl.int32)
    path = Path(table.start + first, table.stop + first, table.weight + first, length)
    return valid | (weight == 0), path, weight


@triton.jit
def _logits_at(row, rows, row_vectors, cut):
    """Where the logits of a row are."""
    return rows.logits + row * row_vectors * cut.vector


@triton.jit
def _open_row(row, targets, table, num_targets, ignore_index):
    """The row's path, the weight of its loss, and the factor of its gradient.

    Both numbers are NaN if the target is not valid.
    """
    valid, path, counts_for = _path_of(row, targets, table, num_targets, ignore_index)
    some = path.length > 0
    start = tl.load(path.start, mask=some, other=0)
    is_empty = start >= tl.load(path.stop, mask=some, other=1)
    factor = times_incoming(row, divided(counts_for, targets.divisor), targets)
    bad = (valid == 0) | is_empty
    counts_for = tl.where(bad & (counts_for != 0), float("nan"), counts_for)
    factor = tl.where(bad & (factor != 0), float("nan"), factor)
    return path, counts_for, factor


@triton.jit
def _store_loss(row, loss, counts_for, row_loss):
    weighted = counts_for * loss.to(tl.float64)
    weighted = tl.where(counts_for != 0, weighted, 0.0)
    tl.store(row_loss + row, weighted.to(row_loss.dtype.element_ty))


@triton.jit(do_not_specialize=_SIZES)
def row_kernel(
    rows, targets, table, rings, row_vectors, column_vectors, num_targets, ignore_index, first_row,
    settings, cut,
):  # fmt: skip
    """Loss and gradient of rows of at most cut.strip * cut.strips columns. One program per row."""
    slot = tl.program_id(0).to(tl.int64)
    number_of = slot + first_row
    logits, columns = _logits_at(number_of, rows, row_vectors, cut), column_vectors * cut.vector
    row = Row(number_of, logits, rows.grad, table.order, columns)
    memory = rings_of(slot, rings, cut)
    path, counts_for, factor = _open_row(number_of, targets, table, num_targets, ignore_index)
    has_entropy: tl.constexpr = settings.entropy is not None

    strip = tl.arange(0, cut.strips)
    position = strip[:, None] * cut.strip + tl.arange(0, cut.strip)[None, :]
    in_row = position < row.columns
    column = at_positions(position, in_row, row.order)
    read = position < tl.where(factor != 0, row.columns, 0)
    z = tl.load(row.logits + column, mask=read, other=float("-inf"))
    mass, gap, e = measure(z.to(rings.dtype.element_ty), has_entropy)
    ring, whole = ring_of_strips(strip, path, row.columns, cut)
    strips = Strips(mass, ring, whole)
    loss, terms = resolve(row, path, strips, memory, factor, settings, cut, False)
    if rows.loss is not None:
        _store_loss(number_of, loss, counts_for, rows.loss)
    if rows.grad is not None:
        g = strip_gradient(gap, e, mass.max, strips, memory, terms, has_entropy)
        g = tl.where(factor == 0, 0.0, g).to(row.grad.dtype.element_ty)
        # Computed again rather than kept, because this kernel is short of registers.
        column = at_positions(position, in_row & whole[:, None], row.order)
        tl.store(grad_of(row) + column, g, mask=in_row & whole[:, None])
        write_pieces(row, path, memory, terms, factor, cut, has_entropy)


@triton.jit(do_not_specialize=_SIZES)
def measure_kernel(
    rows, target, order, strips, row_vectors, column_vectors, ignore_index, first_row, cut,
):  # fmt: skip
    """Stores the masses of a row's strips, cut.strips of them per program."""
    slot = tl.program_id(1).to(tl.int64)
    number_of = slot + first_row
    logits, columns = _logits_at(number_of, rows, row_vectors, cut), column_vectors * cut.vector
    num_strips = tl.cdiv(columns, cut.strip)
    strip = tl.program_id(0) * cut.strips + tl.arange(0, cut.strips)
    position = strip[:, None] * cut.strip + tl.arange(0, cut.strip)[None, :]
    counts = tl.load(target + number_of) != ignore_index
    mask = position < tl.where(counts, columns, 0)
    column = at_positions(position, mask, order)
    z = tl.load(logits + column, mask=mask, other=float("-inf"))
    mass, _, _ = measure(z.to(strips.dtype.element_ty), cut.fields == 3)
    strips += slot * num_strips * cut.fields
    tl.store(strips + strip, mass.max, mask=strip < num_strips)
    tl.store(strips + num_strips + strip, mass.sum, mask=strip < num_strips)
    if cut.fields == 3:
        tl.store(strips + 2 * num_strips + strip, mass.moment, mask=strip < num_strips)


@triton.jit(do_not_specialize=_SIZES)
def resolve_kernel(
    rows, targets, table, scratch, row_vectors, column_vectors, num_targets, ignore_index,
    first_row, settings, cut,
):  # fmt: skip
    """A row's loss, rings' coefficients, and the gradient of its pieces. One program per row."""
    slot = tl.program_id(0).to(tl.int64)
    number_of = slot + first_row
    logits, columns = _logits_at(number_of, rows, row_vectors, cut), column_vectors * cut.vector
    row = Row(number_of, logits, rows.grad, table.order, columns)
    memory = rings_of(slot, scratch.rings, cut)
    num_strips = tl.cdiv(row.columns, cut.strip)
    measured = Memory(scratch.strips + slot * num_strips * cut.fields, num_strips)
    path, counts_for, factor = _open_row(number_of, targets, table, num_targets, ignore_index)
    loss, terms = resolve(row, path, measured, memory, factor, settings, cut, True)
    of_row = memory.at + ROW * memory.step
    tl.store(of_row, terms.max)
    tl.store(of_row + 1, terms.slope)
    tl.store(of_row + 2, terms.middle)
    tl.store(of_row + 3, factor.to(memory.at.dtype.element_ty))
    if rows.loss is not None:
        _store_loss(number_of, loss, counts_for, rows.loss)
    if rows.grad is not None:
        has_entropy: tl.constexpr = settings.entropy is not None
        write_pieces(row, path, memory, terms, factor, cut, has_entropy)


@triton.jit(do_not_specialize=_SIZES)
def write_kernel(
    rows, targets, table, scratch, row_vectors, column_vectors, num_targets, ignore_index,
    first_row, cut,
):  # fmt: skip
    """The gradient of a row's whole strips, cut.strips strips per program."""
    slot = tl.program_id(1).to(tl.int64)
    number_of = slot + first_row
    logits, columns = _logits_at(number_of, rows, row_vectors, cut), column_vectors * cut.vector
    row = Row(number_of, logits, rows.grad, table.order, columns)
    num_strips = tl.cdiv(row.columns, cut.strip)
    memory = rings_of(slot, scratch.rings, cut)
    _, path, _ = _path_of(number_of, targets, table, num_targets, ignore_index)
    strip = tl.program_id(0) * cut.strips + tl.arange(0, cut.strips)
    ring, whole = ring_of_strips(strip, path, row.columns, cut)
    of_row = memory.at + ROW * memory.step
    terms = RowTerms(tl.load(of_row), tl.load(of_row + 1), tl.load(of_row + 2))
    factor = tl.load(of_row + 3)
    maxima = scratch.strips + slot * num_strips * cut.fields
    top = tl.load(maxima + strip, mask=strip < num_strips, other=float("-inf"))
    position = strip[:, None] * cut.strip + tl.arange(0, cut.strip)[None, :]
    in_row = position < row.columns
    column = at_positions(position, in_row, row.order)
    read = position < tl.where(factor != 0, row.columns, 0)
    z = tl.load(row.logits + column, mask=read, other=float("-inf"))
    gap = z.to(top.dtype) - finite(top)[:, None]
    found = Strips(None, ring, whole)
    g = strip_gradient(gap, tl.exp(gap), top, found, memory, terms, cut.fields == 3)
    g = tl.where(factor == 0, 0.0, g).to(row.grad.dtype.element_ty)
    tl.store(grad_of(row) + column, g, mask=in_row & whole[:, None])
