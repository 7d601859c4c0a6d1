"""`tree_log_prob` on a GPU: scratch memory, launches, and the ops."""

from __future__ import annotations

from torch import Tensor

from ..rows import loss_dtype
from .tree_log_prob_kernel import log_prob_kernel
from .tree_pull import Rows
from .tree_rows import UP, Arrays, chunks_of_rows, level_bounds, node_of_places
from .tree_sweeps import Tree

__all__ = ["OPS", "tree_log_prob", "tree_log_prob_backward"]


def tree_log_prob(logits: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    """The log-probability of every node."""
    arrays, work = Arrays(*tree), loss_dtype(logits.dtype)
    shape, levels = arrays.shape, level_bounds(level_ptr, logits.device)
    log_prob = logits.new_empty((logits.shape[0], arrays.num_nodes), dtype=work)
    row_bytes = 2 * arrays.num_inner * work.itemsize
    for rows in chunks_of_rows(logits.shape[0], row_bytes, logits.device):
        scratch = logits.new_empty((len(rows), 2, arrays.num_inner), dtype=work)
        for stages, programs in shape.launches(UP):
            log_prob_kernel[(len(rows) * programs,)](
                logits, log_prob, scratch, Tree(*arrays, level_ptr=levels), rows.start, programs,
                logits.stride(0), arrays.num_nodes, arrays.num_classes, arrays.num_inner,
                len(levels) - 1, shape.tile, STAGES=stages, **shape.options,
            )  # fmt: skip
    return log_prob


def tree_log_prob_backward(
    grad_log_prob: Tensor, logits: Tensor, tree: list[Tensor], level_ptr: list[int]
) -> Tensor:
    """The gradient of the logits."""
    arrays = Arrays(*tree)
    grad = logits.new_empty(logits.shape)
    levels, node = level_bounds(level_ptr, logits.device), node_of_places(arrays)
    batch = Rows(logits, arrays, levels, node=node, grad=grad)
    for rows in chunks_of_rows(logits.shape[0], batch.scratch_bytes, logits.device):
        batch.pull(rows, grad_log_prob)
    return grad


#: Ops by name.
OPS = {"tree_log_prob": tree_log_prob, "tree_log_prob_backward": tree_log_prob_backward}
