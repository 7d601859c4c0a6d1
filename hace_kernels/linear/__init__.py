"""Losses of a linear layer whose logits are never all in memory, in one or several processes."""

from .folded_tree import TreeOfClasses
from .interval_log_prob import linear_interval_log_probs
from .linear_path_log_loss import (
    linear_path_log_loss,
    linear_with_log_prob,
    logits_fit,
    sharded_path_log_loss,
)
from .node_shards import NodeShards
from .node_sums import NodeSums, build_node_sums
from .shard import Exchange, LocalClasses, Shard
from .spread import Spread
from .tiles import OnWeightGrad, put_rows
from .topk import TopK, linear_topk

__all__ = [
    "Exchange",
    "LocalClasses",
    "NodeShards",
    "NodeSums",
    "OnWeightGrad",
    "Shard",
    "Spread",
    "TopK",
    "TreeOfClasses",
    "build_node_sums",
    "linear_interval_log_probs",
    "linear_path_log_loss",
    "linear_topk",
    "linear_with_log_prob",
    "logits_fit",
    "put_rows",
    "sharded_path_log_loss",
]
