"""`tree_log_prob`: the log-probability of every node."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rows import loss_dtype
from ..tree_table import TreeTable
from .log_sums import LogSum, ratio
from .tree_sum import levels_up, of_nodes, sum_below

__all__ = ["log_prob_at_places", "tree_log_prob"]


def tree_log_prob(logits: Tensor, tree: TreeTable) -> Tensor:
    """`log P_v` of every node; see `hace_kernels.tree_log_prob`."""
    log_p = log_prob_at_places(logits.to(loss_dtype(logits.dtype)), tree)
    log_p = torch.where(log_p == -torch.inf, -torch.inf, log_p)  # which passes no gradient on
    return of_nodes(log_p, tree, -torch.inf)


def log_prob_at_places(z: Tensor, tree: TreeTable, eps: float = 0.0) -> Tensor:
    """`log(P + eps)` by place, (B, C) to (B, P).

    Where it is −inf, its gradient is spread evenly over the columns below.
    """
    none = z.new_zeros(z.shape[0], tree.num_inner)
    # Every place's sum is relative to the largest logit at or below it.
    top = _largest_below(z.detach(), tree)
    lower = (top - top[:, tree.parent.long()]).exp()
    own = torch.cat([(z - top[:, : tree.num_classes]).exp(), none], 1)
    total = sum_below(own, tree, lower)
    everything = LogSum(top[:, -1:], total[:, -1:])
    if eps:
        return (ratio(LogSum(top, total), everything) + eps).log()

    dead = total == 0
    log_total = torch.where(dead, 1.0, total).log()
    alive = (top - everything.max) + (log_total - everything.sum.log())
    # The mean of logits that are all −inf is −inf too, and its gradient is spread evenly.
    mean = sum_below(torch.cat([z, none], 1), tree) / tree.num_columns
    return torch.where(dead, mean - (everything.max + everything.sum.log()), alive)


def _largest_below(z: Tensor, tree: TreeTable) -> Tensor:
    """The largest logit at or below each place, (B, P); the lowest finite number for −inf."""
    num_classes = tree.num_classes
    lowest = torch.finfo(z.dtype).min
    parent = (tree.parent.long() - num_classes).expand(z.shape[0], -1)
    z = z.clamp(min=lowest)
    inner = z.new_full((z.shape[0], tree.num_inner), lowest)
    inner = inner.scatter_reduce(1, parent[:, :num_classes], z, "amax")
    for first, last in levels_up(tree)[:-1]:
        above = parent[:, num_classes + first : num_classes + last]
        inner = inner.scatter_reduce(1, above, inner[:, first:last], "amax")
    return torch.cat([z, inner], 1)
