"""Pairs of answers and truths, from which most metrics are computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from ..answers.ancestry import DagAncestry, Meeting, TreeAncestry, ancestry_of, tree_ancestry_of
from ..answers.points import Points, points_of
from ..hierarchy import Hierarchy
from ..spaces import TargetSpace, num_targets

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Comparison", "Labels", "Spaces", "compare", "compare_rows"]


class Spaces(TypedDict, total=False):
    """What the integers are.

    Keys:
        target_space: what `target` holds: labels of "classes" (the default) or ids of "nodes".
        pred_space: what `pred` holds; by default the same as `target`. Answers of `hace.decode` are
            "nodes", where −1 stands for the whole forest.
    """

    target_space: TargetSpace
    pred_space: TargetSpace | None


class Labels(Spaces, total=False):
    """What the integers are, and which rows count.

    Keys:
        ignore_index: rows with this target are left out; −100 by default.
    """

    ignore_index: int


@dataclass(frozen=True)
class Comparison:
    """R answers and truths as points.

    Attributes:
        points: of the hierarchy.
        pred: int64 (R), points.
        target: int64 (R), points.
    """

    points: Points
    pred: Tensor
    target: Tensor

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.target)

    @cached_property
    def ancestry(self) -> TreeAncestry | DagAncestry:
        """The ancestry of the points."""
        return ancestry_of(self.points, self.target.device)

    def tree_ancestry(self, what: str) -> TreeAncestry:
        """The ancestry in a tree or forest; ValueError on a DAG, for which `what` is undefined."""
        return tree_ancestry_of(self.points, self.target.device, what)

    @cached_property
    def meeting(self) -> Meeting:
        """How answer and truth of each row are related."""
        return self.ancestry.meet(self.pred, self.target)

    @cached_property
    def right(self) -> Tensor:
        """bool (R)."""
        return self.pred == self.target

    @cached_property
    def pred_size(self) -> Tensor:
        """int64 (R), how many points are at or above the answer, not counting a lone root."""
        return self.ancestry.size(self.pred)

    @cached_property
    def target_size(self) -> Tensor:
        """int64 (R), the same for the truth."""
        return self.ancestry.size(self.target)

    @property
    def is_above(self) -> Tensor:
        """bool (R), whether the answer is the truth or above it."""
        return self.meeting.common == self.pred_size

    @property
    def is_below(self) -> Tensor:
        """bool (R), whether the answer is the truth or below it."""
        return self.meeting.common == self.target_size


def compare(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[Labels]
) -> Comparison:
    """The rows that count, checked.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both.
        labels: see `Labels`.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: the shapes differ, or there is no such space.
        IndexError: an index is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> rows = hace.metrics.compare(pred, target, tree)
        >>> len(rows.pred)
        4
    """
    ignore_index = labels.get("ignore_index", -100)
    if not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an integer, got {ignore_index!r}")
    _check_shapes(pred, target)
    kept = target != ignore_index
    return compare_rows(
        pred[kept],
        target[kept],
        hierarchy,
        target_space=labels.get("target_space", "classes"),
        pred_space=labels.get("pred_space"),
    )


def compare_rows(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **spaces: Unpack[Spaces]
) -> Comparison:
    """All rows, flattened and checked. Arguments and errors as for `compare`."""
    target_space = spaces.get("target_space", "classes")
    pred_space = spaces.get("pred_space") or target_space
    points = points_of(hierarchy)
    _check_shapes(pred, target)
    check_indices("pred", pred, hierarchy, pred_space, may_abstain=pred_space == "nodes")
    check_indices("target", target, hierarchy, target_space)
    return Comparison(
        points, points.of(pred.flatten(), pred_space), points.of(target.flatten(), target_space)
    )


def _check_shapes(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape:
        raise ValueError(
            "pred and target must have one shape, "
            f"got {tuple(pred.shape)} and {tuple(target.shape)}"
        )


def check_indices(
    name: str, index: Tensor, hierarchy: Hierarchy, space: TargetSpace, *, may_abstain: bool = False
) -> None:
    """Raises TypeError unless `index` holds integers, IndexError where one is out of range.

    Args:
        name: of the argument.
        index: any shape.
        hierarchy: of the indices.
        space: of the indices.
        may_abstain: −1 is in range too.
    """
    size = num_targets(hierarchy, space)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(
            f"{name} must hold integers, got {index.dtype}; hace.predict makes labels of logits"
        )
    if index.numel() == 0:
        return
    low, high = (int(x) for x in torch.aminmax(index))
    if low < -1 * may_abstain or high >= size:
        raise IndexError(
            f"{name} holds {low if low < -1 * may_abstain else high}, outside 0 to {size - 1} "
            f"({size} {space}); rows that do not count are left out by ignore_index"
        )
