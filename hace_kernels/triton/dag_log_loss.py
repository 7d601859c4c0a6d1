"""`dag_log_loss` on a GPU: scratch memory and launches."""

from __future__ import annotations

import torch
from torch import Tensor

from ..closure_table import ClosureTable
from ..rows import loss_dtype
from ..schemas import TreeLogLossArguments
from ..target_table import TargetTable
from .dag_log_loss_kernel import DagLinks, MixedNodes, mixed_kernel, rise_kernel
from .node_table import MIXED_TILE
from .rows import Results, bits, loss_ops
from .tree_pull import Rows
from .tree_rows import Arrays, chunks_of_rows, level_bounds
from .tree_targets import Put, divisor_of

__all__ = ["OPS"]


def _launch(call: TreeLogLossArguments, results: Results) -> None:
    logits, table = call.logits, TargetTable.of_tensors(call.table, call.row_spread)
    dag = ClosureTable.of_tensors(call.tree, call.level_ptr)
    tree, level_ptr = Arrays(*dag.spanning.tree.tensors), dag.spanning.tree.level_ptr
    # Mass has risen along the DAG's links before it comes to the tree, where it stays.
    keep = torch.ones(tree.num_places, dtype=torch.float64, device=logits.device)
    batch = Rows.of_loss(call, results, tree, level_ptr, keep)
    put = Put(call, table, batch, dag.num_nodes)
    mixed = _Mixed(dag, batch, table.keep)
    row_bytes = put.scratch_bytes + batch.scratch_bytes + mixed.scratch_bytes
    for rows in chunks_of_rows(len(logits), row_bytes, logits.device):
        batch.pull(rows, mixed.rise(put(rows)), mixed)


class _Mixed:
    """What a DAG adds to its tree: mass that rises along several links, and the mixed nodes."""

    def __init__(self, dag: ClosureTable, batch: Rows, keep: Tensor) -> None:
        spanning, self.batch, self.num_nodes = dag.spanning, batch, dag.num_nodes
        self.num_places = spanning.tree.num_places
        self.num_mixed = spanning.part_ptr.shape[0] - 1
        self.heights = level_bounds(spanning.height_ptr, dag.device)
        handed = (1 - keep) / dag.num_parents.clamp(min=1)
        self.links = DagLinks(
            spanning.place, spanning.by_height, self.heights, spanning.child_ptr, spanning.child,
            keep, handed,
        )  # fmt: skip
        self.nodes = MixedNodes(
            spanning.part_ptr, spanning.part, spanning.holder_ptr, spanning.holder,
            spanning.tree.num_columns,
        )  # fmt: skip

    @property
    def scratch_bytes(self) -> int:
        """The bytes per row, without the mass by node."""
        work = loss_dtype(self.batch.logits.dtype).itemsize
        return (2 * self.num_places + 3 * self.num_mixed) * work

    def rise(self, reached: Tensor) -> Tensor:
        """The mass that places keep, (rows, P + X), from the mass put on nodes, (rows, N)."""
        kept = reached.new_zeros((len(reached), self.num_places + self.num_mixed))
        rise_kernel[(len(reached),)](
            reached,
            kept,
            self.links,
            len(self.heights) - 1,
            self.num_nodes,
            kept.shape[1],
            **MIXED_TILE,
        )
        return kept

    def hand(
        self, rows: range, mass: Tensor, handed: Tensor, scratch: Tensor, sums: Tensor
    ) -> None:
        """Writes to `handed` the mass that places get, and adds mass and loss to the rows' sums."""
        logits, tree = self.batch.logits, self.batch.tree
        of_mixed = scratch.new_empty((len(rows), 2, self.num_mixed))
        mixed_kernel[(len(rows),)](
            logits, mass[:, self.num_places :], handed, scratch, of_mixed, sums, self.nodes,
            mass.stride(0), rows.start, logits.stride(0), tree.shape.parts, tree.num_classes,
            tree.num_inner, self.num_mixed, bits(self.batch.eps), SPREADS=True, **MIXED_TILE,
        )  # fmt: skip


#: Ops by name.
OPS = loss_ops("dag_log_loss", TreeLogLossArguments, divisor_of, _launch)
