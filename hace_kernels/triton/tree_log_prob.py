"""`tree_log_prob` and `dag_log_prob` on a GPU: scratch memory, launches, and the ops."""

from __future__ import annotations

from torch import Tensor

from ..rows import loss_dtype
from .dag_log_loss_kernel import mixed_kernel
from .mixed_nodes_kernel import mixed_log_sums_kernel
from .node_table import MIXED_TILE, NodeTable
from .tree_log_prob_kernel import log_prob_kernel
from .tree_pull import Rows
from .tree_rows import UP, chunks_of_rows
from .tree_sweeps import Tree

__all__ = ["OPS"]


def _log_prob(logits: Tensor, table: NodeTable) -> Tensor:
    """The log-probability of every node."""
    tree, levels, work = table.tree, table.levels, loss_dtype(logits.dtype)
    log_prob = logits.new_empty((logits.shape[0], tree.num_nodes), dtype=work)
    # Mixed nodes have their sums before any node's is wanted.
    passes = [UP] if table.mixed is None else [UP[:-1], UP[-1:]]
    launches = [tree.shape.launches(stages) for stages in passes]
    row_bytes = 2 * table.num_sums * work.itemsize
    for rows in chunks_of_rows(logits.shape[0], row_bytes, logits.device):
        scratch = logits.new_empty((len(rows), 2, table.num_sums), dtype=work)
        for i, launches_of_pass in enumerate(launches):
            if i > 0:
                mixed_log_sums_kernel[(len(rows),)](
                    logits, scratch, table.mixed, rows.start, logits.stride(0), tree.num_classes,
                    tree.num_inner, table.num_mixed, **MIXED_TILE,
                )  # fmt: skip
            for stages, programs in launches_of_pass:
                log_prob_kernel[(len(rows) * programs,)](
                    logits, log_prob, scratch, Tree(*tree, level_ptr=levels), rows.start, programs,
                    logits.stride(0), tree.num_nodes, tree.num_classes, tree.num_inner,
                    table.num_sums, len(levels) - 1, tree.shape.tile, STAGES=stages,
                    **tree.shape.options,
                )  # fmt: skip
    return log_prob


def _log_prob_backward(grad_log_prob: Tensor, logits: Tensor, table: NodeTable) -> Tensor:
    """The gradient of the logits."""
    tree, node = table.tree, table.node_of_places
    grad = logits.new_empty(logits.shape)
    batch = Rows(logits, tree, table.levels, node=node, grad=grad)
    mixed = None if table.mixed is None else _Mixed(table, batch, node)
    row_bytes = batch.scratch_bytes
    if mixed is not None:
        row_bytes += (tree.num_places + 3 * table.num_mixed) * loss_dtype(logits.dtype).itemsize
    for rows in chunks_of_rows(logits.shape[0], row_bytes, logits.device):
        batch.pull(rows, grad_log_prob, mixed)
    return grad


class _Mixed:
    """The mixed nodes of a DAG, which hand the incoming gradients to places of its tree."""

    def __init__(self, table: NodeTable, batch: Rows, node_of_places: Tensor) -> None:
        self.table, self.batch = table, batch
        self.nodes = node_of_places[table.tree.num_places : -1]

    def hand(
        self, rows: range, mass: Tensor, handed: Tensor, scratch: Tensor, sums: Tensor
    ) -> None:
        """Writes to `handed` what places get, and adds the mass to the rows' sums."""
        logits, tree = self.batch.logits, self.table.tree
        own = mass[rows.start : rows.stop].index_select(1, self.nodes)
        of_mixed = scratch.new_empty((len(rows), 2, self.table.num_mixed))
        mixed_kernel[(len(rows),)](
            logits, own, handed, scratch, of_mixed, sums, self.table.mixed, self.table.num_mixed,
            rows.start, logits.stride(0), tree.shape.parts, tree.num_classes, tree.num_inner,
            self.table.num_mixed, None, SPREADS=False, **MIXED_TILE,
        )  # fmt: skip


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
