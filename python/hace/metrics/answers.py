"""Metrics of answers at any node: are they right, and how much too deep or too shallow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..hierarchy import Hierarchy
from .compare import Comparison, compare
from .ratio import Ratio, share

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .compare import Labels

__all__ = [
    "accuracy",
    "accuracy_ratio",
    "ancestor_or_descendant_accuracy",
    "coverage",
    "coverage_ratio",
    "deficient_depth",
    "deficient_ratio",
    "excess_depth",
    "excess_ratio",
    "related_ratio",
]


def accuracy_ratio(c: Comparison) -> Ratio:
    """The ratio of `accuracy`."""
    return share(c.right)


def coverage_ratio(c: Comparison) -> Ratio:
    """The ratio of `coverage`."""
    return share(c.is_above)


def related_ratio(c: Comparison) -> Ratio:
    """The ratio of `ancestor_or_descendant_accuracy`."""
    return share(c.is_above | c.is_below)


def excess_ratio(c: Comparison) -> Ratio:
    """The ratio of `excess_depth`."""
    return share(c.pred_size - c.meeting.common)


def deficient_ratio(c: Comparison) -> Ratio:
    """The ratio of `deficient_depth`."""
    return share(c.target_size - c.meeting.common)


def accuracy(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Tensor:
    """Share of the rows whose answer is the truth itself.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both; DAGs too.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.

    Returns:
        A scalar in [0, 1]; NaN without rows.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: the shapes differ.
        IndexError: an index is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.accuracy(pred, target, tree)
        tensor(0.5000)
    """
    return accuracy_ratio(compare(pred, target, hierarchy, **labels)).value()


def coverage(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Tensor:
    """Share of the rows whose answer is the truth or above it.

    Otherwise as `accuracy`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([tree.index("animal"), tree.index("animal/cat")])
        >>> target = torch.tensor([0, 1])  # a cat and a dog
        >>> hace.metrics.coverage(pred, target, tree, pred_space="nodes")
        tensor(0.5000)
    """
    return coverage_ratio(compare(pred, target, hierarchy, **labels)).value()


def ancestor_or_descendant_accuracy(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Tensor:
    """Share of the rows whose answer is the truth, above it or below it.

    A coarse truth does not say which answer below it is right, so all of them count as right
    (Valmadre, NeurIPS 2022, section 5). Otherwise as `accuracy`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([tree.index("animal"), tree.index("animal/cat")])
        >>> target = torch.tensor([0, 1])  # a cat and a dog
        >>> hace.metrics.ancestor_or_descendant_accuracy(pred, target, tree, pred_space="nodes")
        tensor(0.5000)
    """
    return related_ratio(compare(pred, target, hierarchy, **labels)).value()


def excess_depth(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Tensor:
    """Mean number of nodes at or above the answer that are not at or above the truth.

    In a tree, how much deeper the answer is than the lowest common ancestor, that is, how far it is
    too specific. A scalar, in nodes; otherwise as `accuracy`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.excess_depth(pred, target, tree)
        tensor(0.7500)
    """
    return excess_ratio(compare(pred, target, hierarchy, **labels)).value()


def deficient_depth(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Tensor:
    """Mean number of nodes at or above the truth that are not at or above the answer.

    In a tree, how much deeper the truth is than the lowest common ancestor, that is, how far the
    answer is too coarse. A scalar, in nodes; otherwise as `accuracy`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([tree.index("animal"), tree.index("animal/cat")])
        >>> target = torch.tensor([0, 1])  # a cat and a dog
        >>> hace.metrics.deficient_depth(pred, target, tree, pred_space="nodes")
        tensor(1.)
    """
    return deficient_ratio(compare(pred, target, hierarchy, **labels)).value()
