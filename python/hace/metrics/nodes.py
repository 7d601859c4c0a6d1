"""Accuracy of each node: where in the tree a model fails."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..answers.ancestry import DagAncestry
from ..hierarchy import Hierarchy
from .compare import Comparison, compare
from .ratio import Ratio

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .compare import Labels

__all__ = ["NodeCounts", "node_accuracy", "node_counts"]


class NodeCounts(NamedTuple):
    """Rows by node, int64 (N) each.

    Attributes:
        truth: rows whose truth is at or below the node.
        answer: rows whose answer is at or below it.
        both: rows whose truth and answer are both at or below it.
    """

    truth: Tensor
    answer: Tensor
    both: Tensor

    @property
    def recall(self) -> Ratio:
        """The share of the truths at or below each node whose answer is there too."""
        return Ratio(self.both, self.truth)

    @property
    def precision(self) -> Ratio:
        """The share of the answers at or below each node whose truth is there too."""
        return Ratio(self.both, self.answer)


def node_counts(c: Comparison) -> NodeCounts:
    """How many rows are at or below each node: O(R + N) in a tree.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> rows = hace.metrics.compare(pred, target, tree)
        >>> hace.metrics.node_counts(rows).truth[tree.index("animal")]
        tensor(2)
    """
    if isinstance(c.ancestry, DagAncestry):
        return _dag_counts(c, c.ancestry)
    lca = c.ancestry.lca(c.pred, c.target)
    return NodeCounts(*(_at_or_below(c, points) for points in (c.target, c.pred, lca)))


def _at_or_below(c: Comparison, points: Tensor) -> Tensor:
    """The number of rows at or below each node of a tree."""
    parent = c.tree_ancestry("counts").parent
    depth = c.ancestry.depth
    count = torch.bincount(points, minlength=len(parent))
    order = torch.argsort(depth, descending=True)
    ends = torch.bincount(depth + 1).flip(0).cumsum(0).tolist()
    for first, last in pairwise([0, *ends[:-1]]):
        level = order[first:last]
        count.index_add_(0, parent[level], count[level])
    return count[: c.points.hierarchy.num_nodes]


def _dag_counts(c: Comparison, ancestry: DagAncestry) -> NodeCounts:
    size = len(ancestry.depth)
    keys = []
    for points in (c.target, c.pred):
        row, above, _ = ancestry.pairs_above(points)
        keys.append(row * size + above)
    truth, answer = keys
    both = truth[torch.isin(truth, answer)]
    num_nodes = c.points.hierarchy.num_nodes
    return NodeCounts(
        *(torch.bincount(key % size, minlength=size)[:num_nodes] for key in (truth, answer, both))
    )


def node_accuracy(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Tensor:
    """For each node, the share of the rows with a truth at or below it whose answer is there too.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both; DAGs too.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.

    Returns:
        (N), in [0, 1]; NaN for a node with no truth at or below it. `node_counts` of
        `hace.metrics.compare` has the counts.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: the shapes differ.
        IndexError: an index is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.node_accuracy(pred, target, tree)[tree.index("animal")]
        tensor(1.)
    """
    return node_counts(compare(pred, target, hierarchy, **labels)).recall.value()
