"""`tree_log_loss` on a GPU: scratch memory and launches."""

from __future__ import annotations

from ..schemas import TreeLogLossArguments
from ..target_table import TargetTable
from ..tree_table import TreeTable
from .rows import Results, loss_ops
from .tree_pull import Rows
from .tree_rows import chunks_of_rows
from .tree_targets import Put, divisor_of

__all__ = ["OPS"]


def _launch(call: TreeLogLossArguments, results: Results) -> None:
    table = TargetTable.of_tensors(call.table, call.row_spread)
    tree = TreeTable.of_tensors(call.tree, call.level_ptr)
    batch = Rows.of_loss(call, results, tree, table.keep)
    put = Put(call, table, batch, tree.num_places)
    row_bytes = put.scratch_bytes + batch.scratch_bytes
    for rows in chunks_of_rows(len(call.logits), row_bytes, call.logits.device):
        batch.pull(rows, put(rows))


#: Ops by name.
OPS = loss_ops("tree_log_loss", TreeLogLossArguments, divisor_of, _launch)
