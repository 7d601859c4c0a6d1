"""The launches of the ops that go up a tree or a DAG and write something for every node."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .node_table import NodeTable
from .tree_rows import UP, pointers

__all__ = ["sweep_up"]


def sweep_up(
    kernels: tuple[Any, Any],
    of_kernel: Any,
    values: Tensor,
    scratch: Tensor,
    rows: range,
    table: NodeTable,
    with_nodes: bool = True,
) -> None:
    """Sweeps over some rows.

    Args:
        kernels: that of the tree, and that of mixed nodes.
        of_kernel: the first argument of the tree's kernel.
        values: (B, C), by column.
        scratch: the sums of the rows' inner places and mixed nodes.
        with_nodes: whether nodes are written at the end.
    """
    tree, shape = table.tree, table.shape
    kernel, mixed_kernel = kernels
    sizes = {"num_classes": tree.num_classes, "num_inner": tree.num_inner}
    first, step = rows.start, values.stride(0)

    def launch(stages: Any) -> None:
        for bits, programs in shape.launches(stages):
            kernel[(len(rows), programs)](
                of_kernel, pointers(tree), first, step, tree.num_nodes, **sizes,
                num_sums=table.num_sums, tile=shape.tile, STAGES=bits, **shape.options,
            )  # fmt: skip

    if table.mixed is None:
        launch(UP if with_nodes else UP[:-1])
        return
    launch(UP[:-1])
    mixed_kernel[(len(rows),)](
        values, scratch, table.mixed, first, step, **sizes, num_mixed=table.num_mixed,
        tile=shape.mixed_tile, **shape.mixed_options,
    )  # fmt: skip
    if with_nodes:
        launch(UP[-1:])
