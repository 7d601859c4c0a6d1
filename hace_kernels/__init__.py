"""Kernels of hierarchical classification losses, as ops on plain tensors and CSR arrays.

The ops take a hierarchy as tables of flat arrays. `lay_out` makes a `Layout` from an array of
parents; `build_path_table` makes a table of it and the `PathWeights` of a loss, and
`build_tree_table` of the layout alone. `build_closure_table` makes one of the links of a DAG.
"""

from .backends import Backend, BackendError, backends
from .closure_table import ClosureTable, build_closure_table, longest_paths
from .exporting import decompositions
from .layout import WEIGHT_CUT, Layout, lay_out, topological_order
from .linear import linear_path_log_loss
from .memory import memory_bytes
from .ops import (
    BoundPathLogLoss,
    BoundTreeLogLoss,
    path_log_loss,
    tree_log_loss,
    tree_log_prob,
    tree_sum_down,
    tree_sum_up,
)
from .path_table import PathEntries, PathTable, PathWeights, build_path_table
from .rows import loss_dtype
from .target_table import ByColumn, Risen, SoftLabels, TargetTable
from .tree_table import TreeTable, build_tree_table

__all__ = [
    "WEIGHT_CUT",
    "Backend",
    "BackendError",
    "BoundPathLogLoss",
    "BoundTreeLogLoss",
    "ByColumn",
    "ClosureTable",
    "Layout",
    "PathEntries",
    "PathTable",
    "PathWeights",
    "Risen",
    "SoftLabels",
    "TargetTable",
    "TreeTable",
    "backends",
    "build_closure_table",
    "build_path_table",
    "build_tree_table",
    "decompositions",
    "lay_out",
    "linear_path_log_loss",
    "longest_paths",
    "loss_dtype",
    "memory_bytes",
    "path_log_loss",
    "topological_order",
    "tree_log_loss",
    "tree_log_prob",
    "tree_sum_down",
    "tree_sum_up",
]
