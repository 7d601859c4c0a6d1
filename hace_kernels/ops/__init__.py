"""The ops on plain tensors: their checks, choice of backend, autograd and fake kernels."""

from .bound import BoundPathLogLoss, BoundTreeLogLoss
from .path_log_loss import path_log_loss
from .tree_log_loss import tree_log_loss
from .tree_log_prob import tree_log_prob
from .tree_sum import tree_sum_down, tree_sum_up

__all__ = [
    "BoundPathLogLoss",
    "BoundTreeLogLoss",
    "path_log_loss",
    "tree_log_loss",
    "tree_log_prob",
    "tree_sum_down",
    "tree_sum_up",
]
