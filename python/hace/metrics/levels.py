"""Accuracy at each level of a tree or forest, and of siblings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from .compare import Comparison, compare
from .ratio import Ratio, share

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .compare import Labels

__all__ = [
    "level_accuracies",
    "level_accuracy",
    "level_ratio",
    "sibling_accuracy",
    "sibling_ratio",
]


def level_ratio(c: Comparison) -> Ratio:
    """The ratio of `level_accuracies`."""
    c.tree_ancestry("accuracy at a level")
    # A point that is less deep than the level counts as itself, so only equal points agree below
    # their lowest common ancestor.
    num_levels = c.points.tree.depth + 1
    agree_to = torch.where(c.right, num_levels - 1, c.meeting.depth)
    agree = torch.bincount(agree_to + 1, minlength=num_levels + 1)
    right = agree.flip(0).cumsum(0).flip(0)[1:]
    return Ratio(right, torch.full_like(right, c.num_rows))


def sibling_ratio(c: Comparison) -> Ratio:
    """The ratio of `sibling_accuracy`."""
    parent = c.tree_ancestry("accuracy among siblings").parent
    return share(parent[c.pred] == parent[c.target])


def level_accuracy(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, level: int, **labels: Unpack[Labels]
) -> Tensor:
    """Share of the rows whose answer and truth have the same ancestor at depth `level`.

    A node that is less deep than `level` counts as itself, so the accuracy at the hierarchy's depth
    is the plain accuracy.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both; a tree or forest.
        level: 0 (the roots) to `hierarchy.depth`.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.

    Returns:
        A scalar in [0, 1]; NaN without rows.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: the hierarchy is a DAG, `level` is outside the hierarchy, or the shapes differ.
        IndexError: an index is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.level_accuracy(pred, target, tree, level=0)
        tensor(0.7500)
    """
    accuracies = level_accuracies(pred, target, hierarchy, **labels)
    if not 0 <= level < len(accuracies):
        raise ValueError(
            f"level = {level} is outside 0 to {len(accuracies) - 1}, the depths of this hierarchy"
        )
    return accuracies[level]


def level_accuracies(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Tensor:
    """`level_accuracy` at every level: shape (`hierarchy.depth` + 1,), roots first.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.level_accuracies(pred, target, tree)
        tensor([0.7500, 0.5000])
    """
    return level_ratio(compare(pred, target, hierarchy, **labels)).value()


def sibling_accuracy(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Tensor:
    """Share of the rows whose answer has the truth's parent, right answers included.

    Roots are siblings. Otherwise as `level_accuracy`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.sibling_accuracy(pred, target, tree)
        tensor(0.7500)
    """
    return sibling_ratio(compare(pred, target, hierarchy, **labels)).value()
