"""`dag_log_loss` on a GPU: scratch memory, launches, and the op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..closure_table import ClosureTable
from ..rows import loss_dtype
from ..schemas import TreeLogLossArguments
from ..target_table import TargetTable
from .dag_log_loss_kernel import DagLinks, MixedNodes, mixed_kernel, rise_kernel
from .rows import MEAN, bits, reduced
from .tree_pull import Rows
from .tree_rows import Arrays, chunks_of_rows, level_bounds
from .tree_targets import Put, divisor_of

__all__ = ["OPS", "dag_log_loss", "dag_log_loss_backward"]

# Nodes that a program takes together, children or parts of each, and warps.
_TILE = {"NODES": 64, "KIDS": 4, "num_warps": 4}


def _run(
    call: TreeLogLossArguments,
    row_loss: Tensor | None,
    grad: Tensor | None,
    grad_loss: Tensor | None = None,
) -> Tensor | None:
    """Fills in what is given, and returns what `mean` divides by."""
    logits, table = call.logits, TargetTable.of_tensors(call.table, call.row_spread)
    dag = ClosureTable.of_tensors(call.tree, call.level_ptr)
    tree = Arrays(*dag.spanning.tree.tensors)
    num_rows = logits.shape[0]
    divisor = divisor_of(call, table) if call.reduction == MEAN else None
    batch = Rows(
        logits,
        tree,
        level_bounds(dag.spanning.tree.level_ptr, logits.device),
        keep=torch.ones(tree.num_places, dtype=torch.float64, device=logits.device),
        grad=grad,
        row_loss=row_loss,
        counts=logits.new_empty(num_rows, dtype=torch.float64),
        divisor=None if grad is None else divisor,
        grad_loss=grad_loss,
        eps=call.eps,
    )
    put = Put(call, table, batch, dag.num_nodes)
    mixed = _Mixed(dag, batch, table.keep)
    row_bytes = put.scratch_bytes + batch.scratch_bytes + mixed.scratch_bytes
    for rows in chunks_of_rows(num_rows, row_bytes, logits.device):
        batch.pull(rows, mixed.rise(put(rows)), mixed)
    return divisor


class _Mixed:
    """What a DAG has beyond its tree: how mass rises, and the mixed nodes."""

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
        """Per row, without the mass by node."""
        work = loss_dtype(self.batch.logits.dtype).itemsize
        return (2 * self.num_places + 3 * self.num_mixed) * work

    def rise(self, reached: Tensor) -> Tensor:
        """The mass that places keep, (rows, P + X), from that put on nodes, (rows, N)."""
        kept = reached.new_zeros((len(reached), self.num_places + self.num_mixed))
        rise_kernel[(len(reached),)](
            reached, kept, self.links, len(self.heights) - 1, self.num_nodes, kept.shape[1], **_TILE
        )
        return kept

    def hand(
        self, rows: range, mass: Tensor, handed: Tensor, scratch: Tensor, sums: Tensor
    ) -> None:
        """Fills in the mass `handed` to places; adds mass and loss to the rows' sums."""
        logits, tree = self.batch.logits, self.batch.tree
        of_mixed = scratch.new_empty((len(rows), 2, self.num_mixed))
        mixed_kernel[(len(rows),)](
            logits, mass, handed, scratch, of_mixed, sums, self.nodes, rows.start, logits.stride(0),
            tree.shape.parts, tree.num_classes, tree.num_inner, self.num_mixed,
            bits(self.batch.eps), **_TILE,
        )  # fmt: skip


def dag_log_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient for an incoming one of 1 unless it was not asked for."""
    call, with_grad = TreeLogLossArguments(*arguments[:-1]), arguments[-1]
    logits = call.logits
    row_loss = logits.new_empty(logits.shape[0], dtype=loss_dtype(logits.dtype))
    grad = logits.new_empty(logits.shape) if with_grad else None
    divisor = _run(call, row_loss, grad)
    loss = reduced(row_loss, divisor, call.reduction)
    return loss, logits.new_empty(0) if grad is None else grad


def dag_log_loss_backward(grad_loss: Tensor, *arguments: Any) -> Tensor:
    """The gradient for any incoming one, made anew from the logits."""
    call = TreeLogLossArguments(*arguments)
    grad = call.logits.new_empty(call.logits.shape)
    _run(call, None, grad, grad_loss)
    return grad


#: Ops by name.
OPS = {"dag_log_loss": dag_log_loss, "dag_log_loss_backward": dag_log_loss_backward}
