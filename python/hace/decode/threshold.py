"""The most specific node that is probable enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..answers.points import points_of
from ..answers.rows import node_log_prob_rows, row_by_row
from ..answers.specificity import Specificity, specificity_of
from ..checks import as_number

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy
    from ..spaces import LogitSpace

__all__ = ["deepest_node", "majority_subtree"]


def deepest_node(
    input: Tensor,
    hierarchy: Hierarchy,
    threshold: float = 0.5,
    *,
    specificity: Specificity = "depth",
    logit_space: LogitSpace = "classes",
) -> Tensor:
    """The deepest node of probability `threshold` or more; of equally deep ones the most probable.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        hierarchy: of the classes; DAGs too.
        threshold: a probability; `calibrate_threshold` finds the one for a wanted accuracy. 0 gives
            the most specific node of all, and above 1 no node is probable enough.
        specificity: "depth", or "information" for the node with the fewest classes below it.
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.

    Returns:
        int64 node ids, the input's shape without its class dimension. Where no node is probable
        enough, the root; in a forest, −1.

    Raises:
        TypeError: input or a threshold that is not floating point.
        ValueError: the input's shape does not fit, or an option is outside its range.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> answer = hace.decode.deepest_node(logits, tree, 0.9)
        >>> tree.names[answer[0]]
        'animal'
    """
    threshold = as_number("threshold", threshold)
    if not threshold >= 0:
        raise ValueError(f"threshold must be a probability, got {threshold!r}")
    return _most_specific(input, hierarchy, lambda p: p >= threshold, specificity, logit_space)


def majority_subtree(
    input: Tensor, hierarchy: Hierarchy, *, logit_space: LogitSpace = "classes"
) -> Tensor:
    """The smallest subtree, by classes, that holds more than half of the probability.

    Arguments, shape and errors as for `deepest_node`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> answer = hace.decode.majority_subtree(logits, tree)
        >>> tree.names[answer[0]]
        'animal'
    """
    return _most_specific(input, hierarchy, lambda p: p > 0.5, "information", logit_space)


def _most_specific(
    input: Tensor,
    hierarchy: Hierarchy,
    enough: Callable[[Tensor], Tensor],
    specificity: Specificity,
    logit_space: LogitSpace,
) -> Tensor:
    points = points_of(hierarchy)

    def decide(rows: Tensor) -> Tensor:
        table = specificity_of(hierarchy, specificity, rows.device)
        probability = node_log_prob_rows(rows, hierarchy, logit_space).exp_()
        rank = table.rank.where(enough(probability), -1)
        best = rank.amax(1, keepdim=True)
        node = probability.masked_fill_(rank != best, -1).argmax(1)
        return points.told(torch.where(best[:, 0] < 0, points.num_points, node))

    return row_by_row(input, hierarchy, logit_space, decide)
