"""Kernels of hierarchical classification losses, as ops on plain tensors and CSR arrays."""

from .backends import Backend, BackendError, backends
from .linear import linear_path_log_loss
from .ops import path_log_loss, tree_log_loss, tree_log_prob, tree_sum_down, tree_sum_up
from .path_table import PathTable
from .target_table import SoftLabels, TargetTable
from .tree_table import TreeTable

__all__ = [
    "Backend",
    "BackendError",
    "PathTable",
    "SoftLabels",
    "TargetTable",
    "TreeTable",
    "backends",
    "linear_path_log_loss",
    "path_log_loss",
    "tree_log_loss",
    "tree_log_prob",
    "tree_sum_down",
    "tree_sum_up",
]
