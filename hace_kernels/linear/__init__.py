"""Losses of a linear layer whose logits need never be whole, in one process or over several."""

from .columns import OnWeightGrad
from .linear_path_log_loss import (
    linear_path_log_loss,
    linear_with_log_prob,
    logits_fit,
    sharded_path_log_loss,
)
from .shard import Exchange, Shard
from .topk import TopK, linear_topk

__all__ = [
    "Exchange",
    "OnWeightGrad",
    "Shard",
    "TopK",
    "linear_path_log_loss",
    "linear_topk",
    "linear_with_log_prob",
    "logits_fit",
    "sharded_path_log_loss",
]
