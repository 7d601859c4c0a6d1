"""`dag_log_loss` on a GPU: scratch memory and launches."""

from __future__ import annotations

import torch
from torch import Tensor

from ..closure_table import ClosureTable
from ..rows import loss_dtype
from ..schemas import TreeLogLossArguments
from ..target_table import TargetTable
from .dag_log_loss_kernel import DagLinks, rise_kernel
from .node_table import mixed_nodes
from .rows import Results, loss_ops
from .tree_pull import Mixed, Rows
from .tree_rows import Shape, chunks_of_rows, levels_on
from .tree_targets import Put, divisor_of

__all__ = ["OPS"]


def _launch(call: TreeLogLossArguments, results: Results) -> None:
    logits, table = call.logits, TargetTable.of_tensors(call.table, call.row_spread)
    dag = ClosureTable.of_tensors(call.tree, call.level_ptr)
    tree, mixed = dag.spanning.tree, Mixed(*mixed_nodes(dag.spanning))
    # Mass has risen along the DAG's links before it comes to the tree, where it stays.
    keep = torch.ones(tree.num_places, dtype=torch.float64, device=logits.device)
    batch = Rows.of_loss(call, results, tree, keep, mixed)
    put = Put(call, table, batch, dag.num_nodes)
    links, shape = _links(dag, table.keep), Shape.of(tree)
    kept_bytes = (tree.num_places + mixed.count) * loss_dtype(logits.dtype).itemsize
    row_bytes = put.scratch_bytes + batch.scratch_bytes + kept_bytes
    for rows in chunks_of_rows(len(logits), row_bytes, logits.device):
        reached = put(rows)
        kept = reached.new_zeros((len(rows), tree.num_places + mixed.count))
        rise_kernel[(len(rows),)](
            reached,
            kept,
            links,
            dag.num_nodes,
            kept.shape[1],
            shape.mixed_tile,
            **shape.mixed_options,
        )
        batch.pull(rows, kept)


def _links(dag: ClosureTable, keep: Tensor) -> DagLinks:
    """The links that mass rises along."""
    spanning = dag.spanning
    handed = (1 - keep) / dag.num_parents.clamp(min=1)
    return DagLinks(
        spanning.place, spanning.by_height, levels_on(dag.device, spanning.height_ptr),
        spanning.child_ptr, spanning.child, keep, handed,
    )  # fmt: skip


#: Ops by name.
OPS = loss_ops("dag_log_loss", TreeLogLossArguments, divisor_of, _launch)
