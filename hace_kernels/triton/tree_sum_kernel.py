"""The kernels of `tree_sum_up` and `tree_sum_down`.

Bytes per row: values are read once and sums are written once. In scratch memory every inner place
has 4 bytes (float32), which its parent or its children read once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .tree_sweeps import (
    IN_COLUMNS,
    IN_LEVELS,
    IN_NODES_OUT,
    Sums,
    fold_up,
    level_of,
    num_levels_of,
    share_of_program,
)

__all__ = ["DownRows", "UpRows", "down_kernel", "up_kernel"]

# Triton compiles a kernel again for some values of its integer arguments, but not of these.
_SIZES = ("first_row", "row_step", "num_nodes", "num_classes", "num_inner", "num_sums")


class UpRows(NamedTuple):
    """Pointers to the rows of `tree_sum_up`.

    Attributes:
        columns: the values, by row and column.
        own: what each inner place starts from, one vector for all rows; None for 0.
        sums: by row and node; None where nobody asks for them.
        scratch: the sums by inner place.
    """

    columns: Any
    own: Any
    sums: Any
    scratch: Any


class DownRows(NamedTuple):
    """Pointers to the rows of `tree_sum_down`.

    Attributes:
        nodes: the values, by row and node.
        handed: values by place that count beside the nodes'; or None.
        sums: by row and column.
        scratch: the sums by inner place.
        node: the node of each place, or -1.
    """

    nodes: Any
    handed: Any
    sums: Any
    scratch: Any
    node: Any


@triton.jit(do_not_specialize=_SIZES)
def up_kernel(
    rows, tree, first_row, row_step, num_nodes, num_classes, num_inner, num_sums, tile,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Some stages of the sums of a row's columns. The grid is rows by programs per row."""
    slot = tl.program_id(0).to(tl.int64)
    row = first_row + slot
    values = rows.columns + row * row_step
    total = rows.scratch + slot * num_sums
    inner = Sums(None, total, rows.own)
    fold_up(values, inner, tree, num_classes, num_inner, tile, STAGES)
    if IN_NODES_OUT & STAGES:
        tl.debug_barrier()
        sums = rows.sums + row * num_nodes
        begin, last = share_of_program(num_nodes)
        for first in tl.range(begin, last, tile.nodes * tile.kids):
            node = first + tl.arange(0, tile.nodes * tile.kids)
            there = node < last
            p = tl.load(tree.place + node, mask=there, other=-1)
            of_column = tl.load(values + p, mask=(p >= 0) & (p < num_classes), other=0.0)
            of_inner = tl.load(total + p - num_classes, mask=p >= num_classes, other=0.0)
            x = tl.where(p < num_classes, of_column.to(total.dtype.element_ty), of_inner)
            tl.store(sums + node, x.to(sums.dtype.element_ty), mask=there)


@triton.jit
def _of_node(p, there, values, handed, node_of_place, work: tl.constexpr):
    """The values of the nodes at places (0 without one), and what is handed to these places."""
    node = tl.load(node_of_place + p, mask=there, other=-1)
    value = tl.load(values + node, mask=node >= 0, other=0.0).to(work)
    if handed is not None:
        value += tl.load(handed + p, mask=there, other=0.0)
    return value


@triton.jit(do_not_specialize=_SIZES)
def down_kernel(
    rows, tree, first_row, row_step, num_classes, num_inner, tile, STAGES: tl.constexpr
):
    """Some stages of the sums of the nodes' values along the paths of a row's columns.

    The grid is rows by programs per row.
    """
    slot = tl.program_id(0).to(tl.int64)
    row = first_row + slot
    values = rows.nodes + row * row_step
    total = rows.scratch + slot * num_inner
    handed = None
    if rows.handed is not None:
        handed = rows.handed + slot * (num_classes + num_inner)
    work: tl.constexpr = rows.scratch.dtype.element_ty
    if IN_LEVELS & STAGES:
        num_levels = num_levels_of(tree)
        for step in tl.range(0, num_levels, num_stages=1):
            begin, end = level_of(tree, num_levels - 1 - step)
            for first in tl.range(begin, end, tile.nodes * tile.kids, num_stages=1):
                v = first + tl.arange(0, tile.nodes * tile.kids)
                there = v < end
                x = _of_node(num_classes + v, there, values, handed, rows.node, work)
                above = tl.load(tree.parent + num_classes + v, mask=there, other=-1)
                x += tl.load(total + above - num_classes, mask=above >= 0, other=0.0)
                tl.store(total + v, x, mask=there)
            tl.debug_barrier()
    if IN_COLUMNS & STAGES:
        sums = rows.sums + row * num_classes
        begin, last = share_of_program(num_classes)
        for first in tl.range(begin, last, tile.nodes * tile.kids):
            c = first + tl.arange(0, tile.nodes * tile.kids)
            there = c < last
            x = _of_node(c, there, values, handed, rows.node, work)
            above = tl.load(tree.parent + c, mask=there, other=num_classes)
            x += tl.load(total + above - num_classes, mask=there, other=0.0)
            tl.store(sums + c, x.to(sums.dtype.element_ty), mask=there)
