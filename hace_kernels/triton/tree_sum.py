"""`tree_sum_up` and `tree_sum_down` on a GPU: scratch memory, launches, and the ops."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..rows import loss_dtype
from .tree_rows import UP, Arrays, Stage, chunks_of_rows, level_bounds, node_of_places
from .tree_sum_kernel import down_kernel, up_kernel
from .tree_sweeps import COLUMNS, LEVELS, Tree

__all__ = ["OPS", "inner_sums", "tree_sum_down", "tree_sum_up"]

_DOWN = (Stage(LEVELS, False), Stage(COLUMNS, True))


def tree_sum_up(values: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    """For every node the sum of the columns at or below it."""
    arrays = Arrays(*tree)
    sums = values.new_empty(values.shape[0], arrays.num_nodes)
    _up(values, None, sums, arrays, level_ptr, UP)
    return sums


def inner_sums(x: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    """For every inner place the sum of `x` (P) over the places at or below it: float64 (I)."""
    arrays = Arrays(*tree)
    columns = arrays.num_classes
    return _up(x[None, :columns], x[columns:], None, arrays, level_ptr, UP[:2])[0]


def _up(
    values: Tensor,
    own: Tensor | None,
    sums: Tensor | None,
    tree: Arrays,
    level_ptr: Sequence[int],
    all_stages: Sequence[Stage],
) -> Tensor:
    """Writes the sums by node, unless None; returns the inner places' sums of the last rows."""
    levels, shape, work = level_bounds(level_ptr, values.device), tree.shape, values.dtype
    row_bytes = tree.num_inner * loss_dtype(work).itemsize
    scratch = values.new_empty((0, tree.num_inner))
    for rows in chunks_of_rows(values.shape[0], row_bytes, values.device):
        scratch = values.new_empty((len(rows), tree.num_inner), dtype=loss_dtype(work))
        for stages, programs in shape.launches(all_stages):
            up_kernel[(len(rows) * programs,)](
                values, own, sums, scratch, Tree(*tree, level_ptr=levels), rows.start, programs,
                values.stride(0), tree.num_nodes, tree.num_classes, tree.num_inner,
                len(levels) - 1, shape.tile, STAGES=stages, **shape.options,
            )  # fmt: skip
    return scratch


def tree_sum_down(values: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    """For every column the sum over its node and all nodes above."""
    arrays = Arrays(*tree)
    shape, work = arrays.shape, loss_dtype(values.dtype)
    sums = values.new_empty(values.shape[0], arrays.num_classes)
    levels = level_bounds(level_ptr, values.device)
    node_of_place = node_of_places(arrays)
    row_bytes = arrays.num_inner * work.itemsize
    for rows in chunks_of_rows(values.shape[0], row_bytes, values.device):
        scratch = values.new_empty((len(rows), arrays.num_inner), dtype=work)
        for stages, programs in shape.launches(_DOWN):
            down_kernel[(len(rows) * programs,)](
                values, sums, scratch, node_of_place, Tree(*arrays, level_ptr=levels), rows.start,
                programs, values.stride(0), arrays.num_classes, arrays.num_inner, len(levels) - 1,
                shape.tile, STAGES=stages, **shape.options,
            )  # fmt: skip
    return sums


#: Ops by name.
OPS = {"tree_sum_up": tree_sum_up, "tree_sum_down": tree_sum_down}
