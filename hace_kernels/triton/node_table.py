"""What the ops over nodes take of a tree or of a DAG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..closure_table import ClosureTable
from .dag_log_loss_kernel import MixedNodes
from .tree_rows import Arrays, level_bounds

__all__ = ["MIXED_TILE", "NodeTable"]

#: How many nodes a program handles together, how many children or parts of each, and its warps.
MIXED_TILE = {"NODES": 64, "KIDS": 4, "num_warps": 4}


class NodeTable(NamedTuple):
    """A tree, or a DAG's spanning tree and what the DAG has beyond it.

    Attributes:
        tree: its arrays; `place` is by the DAG's nodes, P or more at mixed nodes.
        levels: its level_ptr on the device.
        mixed: the mixed nodes; None for a tree.
        num_mixed: X, 0 for a tree.
    """

    tree: Arrays
    levels: Tensor
    mixed: MixedNodes | None = None
    num_mixed: int = 0

    @classmethod
    def of_tree(cls, tensors: Sequence[Tensor], level_ptr: Sequence[int]) -> NodeTable:
        """From the tensors of a `TreeTable`."""
        tree = Arrays(*tensors)
        return cls(tree, level_bounds(level_ptr, tree.place.device))

    @classmethod
    def of_dag(cls, tensors: Sequence[Tensor], sizes: Sequence[int]) -> NodeTable:
        """From the tensors and sizes of a `ClosureTable`."""
        spanning = ClosureTable.of_tensors(tensors, sizes).spanning
        tree = Arrays(*spanning.tree.tensors)._replace(place=spanning.place)
        levels = level_bounds(spanning.tree.level_ptr, tree.place.device)
        mixed = MixedNodes(
            spanning.part_ptr, spanning.part, spanning.holder_ptr, spanning.holder,
            spanning.tree.num_columns,
        )  # fmt: skip
        return cls(tree, levels, mixed, spanning.part_ptr.shape[0] - 1)

    @property
    def num_sums(self) -> int:
        """Of inner places and mixed nodes."""
        return self.tree.num_inner + self.num_mixed

    @property
    def node_of_places(self) -> Tensor:
        """int32 (P + X + 1): the node of each place, or -1. The last entry has no meaning."""
        place, num_places = self.tree.place, self.tree.num_places + self.num_mixed
        node = place.new_full((num_places + 1,), -1)
        numbers = torch.arange(len(place), dtype=node.dtype, device=node.device)
        return node.scatter_(0, torch.where(place >= 0, place, num_places).long(), numbers)
