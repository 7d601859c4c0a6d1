"""The most probable answers at every level of a tree or forest."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..answers.ancestry import tree_ancestry_of
from ..answers.levels import best_by_level
from ..answers.points import points_of
from ..answers.rows import point_log_prob_rows, row_by_row

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy
    from ..spaces import LogitSpace

__all__ = ["LevelRanking", "top_k_per_level"]


class LevelRanking(NamedTuple):
    """The k most probable answers at each of D + 1 levels, best first.

    Attributes:
        node: int64 (…, D+1, k), node ids; −1 where a level has fewer answers.
        probability: (…, D+1, k); 0 there.
    """

    node: Tensor
    probability: Tensor


def top_k_per_level(
    input: Tensor, hierarchy: Hierarchy, k: int = 1, *, logit_space: LogitSpace = "classes"
) -> LevelRanking:
    """The k most probable answers at depth 0, 1, …, D.

    The answers of a level are the nodes of that depth and the leaves that are less deep, so that
    their probabilities add up to 1 at every level. A class at an inner node counts as a leaf below
    the node; it is returned as the node's id, with the probability of the class alone.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        hierarchy: of the classes; a tree or forest.
        k: at least 1.
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.

    Returns:
        Both of the input's shape without its class dimension, and then (D+1, k).

    Raises:
        TypeError: input that is not floating point.
        ValueError: the hierarchy is a DAG, the input's shape does not fit, or k is less than 1.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> ranking = hace.decode.top_k_per_level(logits, tree)
        >>> [tree.names[node] for node in ranking.node[0, :, 0]]
        ['animal', 'animal/cat']
    """
    if not k >= 1:
        raise ValueError(f"k must be at least 1, got {k!r}")
    points = points_of(hierarchy)
    nodes: list[Tensor] = []

    def decide(rows: Tensor) -> Tensor:
        tree_ancestry_of(points, rows.device, "an answer at a level")
        log_prob = point_log_prob_rows(rows, points, logit_space)
        levels = list(best_by_level(log_prob, points, k))
        point = torch.stack([level.point for level in levels], 1)
        told = points.on(rows.device).node[point]
        nodes.append(torch.where(point < 0, -1, told))
        return torch.stack([level.log_prob for level in levels], 1).exp_()

    probability = row_by_row(input, hierarchy, logit_space, decide)
    return LevelRanking(torch.cat(nodes).reshape(probability.shape), probability)
