"""`tree_sum_up`, `tree_sum_down` and their twins over DAGs: scratch memory and launches."""

from __future__ import annotations

from torch import Tensor

from ..rows import loss_dtype
from .mixed_nodes_kernel import handed_kernel, mixed_sums_kernel
from .node_sweep import sweep_up
from .node_table import NodeTable
from .tree_rows import Stage, chunks_of_rows, pointers
from .tree_sum_kernel import DownRows, UpRows, down_kernel, up_kernel
from .tree_sweeps import COLUMNS, LEVELS

__all__ = ["OPS", "inner_sums"]

_DOWN = (Stage(LEVELS, False), Stage(COLUMNS, True))


def _sum_up(values: Tensor, table: NodeTable) -> Tensor:
    """For every node the sum of the columns at or below it."""
    sums = values.new_empty(values.shape[0], table.tree.num_nodes)
    _up(values, None, sums, table)
    return sums


def inner_sums(x: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    """For every inner place the sum of `x` (P) over the places at or below it: float64 (I)."""
    table = NodeTable.of_tree(tree, level_ptr)
    columns = table.tree.num_classes
    return _up(x[None, :columns], x[columns:], None, table)[0]


def _up(values: Tensor, own: Tensor | None, sums: Tensor | None, table: NodeTable) -> Tensor:
    """Writes the sums by node, unless None; returns the inner places' sums of the last rows."""
    work = loss_dtype(values.dtype)
    scratch = values.new_empty((0, table.num_sums))
    for rows in chunks_of_rows(values.shape[0], table.num_sums * work.itemsize, values.device):
        scratch = values.new_empty((len(rows), table.num_sums), dtype=work)
        sweep_up(
            (up_kernel, mixed_sums_kernel), UpRows(values, own, sums, scratch), values, scratch,
            rows, table, with_nodes=sums is not None,
        )  # fmt: skip
    return scratch


def _sum_down(values: Tensor, table: NodeTable) -> Tensor:
    """For every column the sum over its node and all nodes above."""
    tree, shape, work = table.tree, table.shape, loss_dtype(values.dtype)
    sums = values.new_empty(values.shape[0], tree.num_classes)
    node_of_place = table.node_of_places
    num_handed = 0 if table.mixed is None else tree.num_places
    row_bytes = (tree.num_inner + num_handed) * work.itemsize
    for rows in chunks_of_rows(values.shape[0], row_bytes, values.device):
        scratch = values.new_empty((len(rows), tree.num_inner), dtype=work)
        handed = None
        if table.mixed is not None:
            handed = values.new_empty((len(rows), tree.num_places), dtype=work)
            handed_kernel[(len(rows),)](
                values, handed, table.mixed, node_of_place, rows.start, values.stride(0),
                tree.num_places, shape.mixed_tile, **shape.mixed_options,
            )  # fmt: skip
        for stages, programs in shape.launches(_DOWN):
            down_kernel[(len(rows), programs)](
                DownRows(values, handed, sums, scratch, node_of_place), pointers(tree), rows.start,
                values.stride(0), tree.num_classes, tree.num_inner, shape.tile, STAGES=stages,
                **shape.options,
            )  # fmt: skip
    return sums


def _tree_sum_up(values: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return _sum_up(values, NodeTable.of_tree(tree, level_ptr))


def _tree_sum_down(values: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return _sum_down(values, NodeTable.of_tree(tree, level_ptr))


def _dag_sum_up(values: Tensor, dag: list[Tensor], sizes: list[int]) -> Tensor:
    return _sum_up(values, NodeTable.of_dag(dag, sizes))


def _dag_sum_down(values: Tensor, dag: list[Tensor], sizes: list[int]) -> Tensor:
    return _sum_down(values, NodeTable.of_dag(dag, sizes))


#: Ops by name.
OPS = {
    "tree_sum_up": _tree_sum_up,
    "tree_sum_down": _tree_sum_down,
    "dag_sum_up": _dag_sum_up,
    "dag_sum_down": _dag_sum_down,
}
