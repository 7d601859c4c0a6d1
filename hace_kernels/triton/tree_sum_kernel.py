"""The kernels of `tree_sum_up` and `tree_sum_down`.

Bytes per row: values are read once and sums are written once. In scratch memory every inner place
has 4 bytes (float32), which its parent or its children read once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tree_sweeps import IN_COLUMNS, IN_LEVELS, IN_NODES_OUT, Sums, fold_up

__all__ = ["down_kernel", "up_kernel"]

# Triton compiles a kernel again for some values of its integer arguments, but not of these.
_SIZES = (
    "first_row", "programs", "row_step", "num_nodes", "num_classes", "num_inner", "num_sums",
    "num_levels",
)  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def up_kernel(
    values, own, sums, scratch, tree, first_row, programs, row_step, num_nodes, num_classes,
    num_inner, num_sums, num_levels, tile, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums of a row's columns: by inner place in `scratch`, and by node in `sums` unless None.

    An inner place starts from its entry of `own`, one vector for all rows, unless that is None.
    """
    slot = (tl.program_id(0) // programs).to(tl.int64)
    part = tl.program_id(0) % programs
    row = first_row + slot
    values += row * row_step
    total = scratch + slot * num_sums
    inner = Sums(None, total, own)
    fold_up(part, programs, values, inner, tree, num_classes, num_inner, num_levels, tile, STAGES)
    if IN_NODES_OUT & STAGES:
        tl.debug_barrier()
        sums += row * num_nodes
        span = tl.cdiv(num_nodes, programs)
        last = tl.minimum((part + 1) * span, num_nodes)
        for first in tl.range(part * span, last, tile.nodes * tile.kids):
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
    values, handed, sums, scratch, node_of_place, tree, first_row, programs, row_step, num_classes,
    num_inner, num_levels, tile, STAGES: tl.constexpr,
):  # fmt: skip
    """For every column of a row the sum of the nodes' values along its path.

    `handed`, by place, are values that count beside the nodes', unless it is None.
    """
    slot = (tl.program_id(0) // programs).to(tl.int64)
    part = tl.program_id(0) % programs
    row = first_row + slot
    values += row * row_step
    total = scratch + slot * num_inner
    if handed is not None:
        handed += slot * (num_classes + num_inner)
    work: tl.constexpr = scratch.dtype.element_ty
    if IN_LEVELS & STAGES:
        for step in tl.range(0, num_levels, num_stages=1):
            level = num_levels - 1 - step
            begin, end = tl.load(tree.level_ptr + level), tl.load(tree.level_ptr + level + 1)
            for first in tl.range(begin, end, tile.nodes * tile.kids, num_stages=1):
                v = first + tl.arange(0, tile.nodes * tile.kids)
                there = v < end
                x = _of_node(num_classes + v, there, values, handed, node_of_place, work)
                above = tl.load(tree.parent + num_classes + v, mask=there, other=-1)
                x += tl.load(total + above - num_classes, mask=above >= 0, other=0.0)
                tl.store(total + v, x, mask=there)
            tl.debug_barrier()
    if IN_COLUMNS & STAGES:
        sums += row * num_classes
        span = tl.cdiv(num_classes, programs)
        last = tl.minimum((part + 1) * span, num_classes)
        for first in tl.range(part * span, last, tile.nodes * tile.kids):
            c = first + tl.arange(0, tile.nodes * tile.kids)
            there = c < last
            x = _of_node(c, there, values, handed, node_of_place, work)
            above = tl.load(tree.parent + c, mask=there, other=num_classes)
            x += tl.load(total + above - num_classes, mask=there, other=0.0)
            tl.store(sums + c, x.to(sums.dtype.element_ty), mask=there)
