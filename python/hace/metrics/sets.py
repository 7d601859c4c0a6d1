"""Hierarchical precision, recall and F1: how much the paths of answer and truth overlap.

Answer and truth stand for the sets of themselves and all nodes above them. A root that is above
everything is the same in all of them and is not counted.

Sources: Kiritchenko et al., *Learning and evaluation in the presence of class hierarchies*, 2006;
Kosmopoulos et al., *Evaluation measures for hierarchical classification*, 2015, section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hace_kernels.widest import widened

from ..hierarchy import Hierarchy
from .compare import Comparison, compare
from .ratio import Ratio, share

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .compare import Labels

__all__ = [
    "Average",
    "f1_ratio",
    "hierarchical_f1",
    "hierarchical_precision",
    "hierarchical_recall",
    "precision_ratio",
    "recall_ratio",
]

Average = Literal["micro", "macro"]
"""`"micro"` divides sums over all rows, `"macro"` is the mean of each row's figure."""


def precision_ratio(c: Comparison, average: Average = "micro") -> Ratio:
    """The ratio of `hierarchical_precision`."""
    return _ratio(c.meeting.common, c.pred_size, average)


def recall_ratio(c: Comparison, average: Average = "micro") -> Ratio:
    """The ratio of `hierarchical_recall`."""
    return _ratio(c.meeting.common, c.target_size, average)


def f1_ratio(c: Comparison, average: Average = "micro") -> Ratio:
    """The ratio of `hierarchical_f1`: 2 P R / (P + R) = 2 |both| / (|answer's| + |truth's|)."""
    return _ratio(2 * c.meeting.common, c.pred_size + c.target_size, average)


def _ratio(part: Tensor, whole: Tensor, average: Average) -> Ratio:
    if average == "micro":
        return Ratio(part.sum(), whole.sum())
    if average == "macro":
        # The whole forest as an answer or a truth is an empty set, in which nothing is wrong or
        # missing.
        return share(torch.where(whole == 0, 1.0, widened(part) / whole.clamp(min=1)))
    raise ValueError(f"average must be 'micro' or 'macro', got {average!r}")


def hierarchical_precision(
    pred: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    average: Average = "micro",
    **labels: Unpack[Labels],
) -> Tensor:
    """Share of the answer and the nodes above it that are the truth or above it too.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both; DAGs too.
        average: "micro" divides sums over all rows; "macro" is the mean over the rows, where the
            whole forest as an answer has precision 1.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.

    Returns:
        A scalar in [0, 1]; NaN without rows.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: the shapes differ, or an option is unknown.
        IndexError: an index is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([tree.index("animal"), tree.index("animal/cat")])
        >>> target = torch.tensor([0, 1])  # a cat and a dog
        >>> hace.metrics.hierarchical_precision(pred, target, tree, pred_space="nodes")
        tensor(0.6667)
    """
    return precision_ratio(compare(pred, target, hierarchy, **labels), average).value()


def hierarchical_recall(
    pred: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    average: Average = "micro",
    **labels: Unpack[Labels],
) -> Tensor:
    """Share of the truth and the nodes above it that are the answer or above it too.

    Otherwise as `hierarchical_precision`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([tree.index("animal"), tree.index("animal/cat")])
        >>> target = torch.tensor([0, 1])  # a cat and a dog
        >>> hace.metrics.hierarchical_recall(pred, target, tree, pred_space="nodes")
        tensor(0.5000)
    """
    return recall_ratio(compare(pred, target, hierarchy, **labels), average).value()


def hierarchical_f1(
    pred: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    average: Average = "micro",
    **labels: Unpack[Labels],
) -> Tensor:
    """The harmonic mean of hierarchical precision and recall, of all rows or of each.

    Otherwise as `hierarchical_precision`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.hierarchical_f1(pred, target, tree)
        tensor(0.6250)
    """
    return f1_ratio(compare(pred, target, hierarchy, **labels), average).value()
