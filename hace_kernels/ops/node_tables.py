"""How the ops over nodes take trees and DAGs, and the sizes that they read from their tables."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..closure_table import ClosureTable
from ..schemas import TreeArguments
from ..tree_table import TreeTable
from .checks import for_kernel

__all__ = [
    "num_classes_of_dag",
    "num_classes_of_tree",
    "num_nodes_of_dag",
    "num_nodes_of_tree",
    "tree_arguments",
]


def tree_arguments(rows: Tensor, table: TreeTable | ClosureTable) -> TreeArguments:
    """The arguments of an op over nodes."""
    sizes = table.sizes if isinstance(table, ClosureTable) else [*table.level_ptr]
    return TreeArguments(for_kernel(rows), table.tensors, sizes)


def num_nodes_of_tree(tensors: Sequence[Tensor]) -> int:
    """N, from the tensors of a `TreeTable`."""
    place, *_ = tensors
    return place.shape[0]


def num_classes_of_tree(tensors: Sequence[Tensor]) -> int:
    """C, from the tensors of a `TreeTable`."""
    _, parent, child_ptr, *_ = tensors
    return parent.shape[0] - child_ptr.shape[0] + 1


def num_nodes_of_dag(tensors: Sequence[Tensor]) -> int:
    """N, from the tensors of a `ClosureTable`."""
    _, ptr, *_ = tensors
    return ptr.shape[0] - 1


def num_classes_of_dag(tensors: Sequence[Tensor]) -> int:
    """C, from the tensors of a `ClosureTable`."""
    order, *_ = tensors
    return order.shape[0]
