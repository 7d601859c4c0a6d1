"""What the ops over nodes take of a tree or of a DAG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..closure_table import ClosureTable
from ..spanning_tree import SpanningTree
from ..tree_table import TreeTable
from .mixed_nodes_kernel import MixedNodes
from .tree_rows import Shape

__all__ = ["NodeTable", "mixed_nodes"]


class NodeTable(NamedTuple):
    """A tree, or a DAG's spanning tree and what the DAG has beyond it.

    Attributes:
        tree: the tree; `place` is by the DAG's nodes, P or more at mixed nodes.
        mixed: the mixed nodes; None for a tree.
        num_mixed: X, 0 for a tree.
    """

    tree: TreeTable
    mixed: MixedNodes | None = None
    num_mixed: int = 0

    @classmethod
    def of_tree(cls, tensors: Sequence[Tensor], level_ptr: Sequence[int]) -> NodeTable:
        """From the tensors of a `TreeTable`."""
        return cls(TreeTable.of_tensors(tensors, level_ptr))

    @classmethod
    def of_dag(cls, tensors: Sequence[Tensor], sizes: Sequence[int]) -> NodeTable:
        """From the tensors and sizes of a `ClosureTable`."""
        spanning = ClosureTable.of_tensors(tensors, sizes).spanning
        return cls(spanning.tree._replace(place=spanning.place), *mixed_nodes(spanning))

    @property
    def shape(self) -> Shape:
        """How the tree is divided among programs."""
        return Shape.of(self.tree)

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


def mixed_nodes(spanning: SpanningTree) -> tuple[MixedNodes, int]:
    """The mixed nodes of a DAG as an argument of kernels, and how many they are."""
    nodes = MixedNodes(
        spanning.part_ptr, spanning.part, spanning.holder_ptr, spanning.holder,
        spanning.tree.num_columns,
    )  # fmt: skip
    return nodes, spanning.part_ptr.shape[0] - 1
