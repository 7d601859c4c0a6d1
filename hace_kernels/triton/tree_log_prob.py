"""`tree_log_prob` and `dag_log_prob` on a GPU: scratch memory, launches, and the ops."""

from __future__ import annotations

from torch import Tensor

from ..rows import loss_dtype
from .mixed_nodes_kernel import mixed_log_sums_kernel
from .node_sweep import sweep_up
from .node_table import NodeTable
from .tree_log_prob_kernel import LogProbRows, log_prob_kernel
from .tree_pull import Mixed, Rows
from .tree_rows import chunks_of_rows

__all__ = ["OPS"]


def _log_prob(logits: Tensor, table: NodeTable) -> Tensor:
    """The log-probability of every node."""
    work = loss_dtype(logits.dtype)
    log_prob = logits.new_empty((logits.shape[0], table.tree.num_nodes), dtype=work)
    row_bytes = 2 * table.num_sums * work.itemsize
    for rows in chunks_of_rows(logits.shape[0], row_bytes, logits.device):
        scratch = logits.new_empty((len(rows), 2, table.num_sums), dtype=work)
        sweep_up(
            (log_prob_kernel, mixed_log_sums_kernel), LogProbRows(logits, log_prob, scratch),
            logits, scratch, rows, table,
        )  # fmt: skip
    return log_prob


def _log_prob_backward(grad_log_prob: Tensor, logits: Tensor, table: NodeTable) -> Tensor:
    """The gradient of the logits."""
    node, grad = table.node_of_places, logits.new_empty(logits.shape)
    mixed = None
    if table.mixed is not None:
        mixed = Mixed(table.mixed, table.num_mixed, node[table.tree.num_places : -1])
    batch = Rows(logits, table.tree, mixed, node=node, grad=grad)
    for rows in chunks_of_rows(logits.shape[0], batch.scratch_bytes, logits.device):
        batch.pull(rows, grad_log_prob)
    return grad


def _tree_log_prob(logits: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return _log_prob(logits, NodeTable.of_tree(tree, level_ptr))


def _tree_log_prob_backward(
    grad: Tensor, logits: Tensor, tree: list[Tensor], level_ptr: list[int]
) -> Tensor:
    return _log_prob_backward(grad, logits, NodeTable.of_tree(tree, level_ptr))


def _dag_log_prob(logits: Tensor, dag: list[Tensor], sizes: list[int]) -> Tensor:
    return _log_prob(logits, NodeTable.of_dag(dag, sizes))


def _dag_log_prob_backward(
    grad: Tensor, logits: Tensor, dag: list[Tensor], sizes: list[int]
) -> Tensor:
    return _log_prob_backward(grad, logits, NodeTable.of_dag(dag, sizes))


#: Ops by name.
OPS = {
    "tree_log_prob": _tree_log_prob,
    "tree_log_prob_backward": _tree_log_prob_backward,
    "dag_log_prob": _dag_log_prob,
    "dag_log_prob_backward": _dag_log_prob_backward,
}
