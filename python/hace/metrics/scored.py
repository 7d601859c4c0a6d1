"""Logits and their truths, from which metrics of probabilities and rankings are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from torch import Tensor

from ..answers.points import Points, points_of
from ..answers.rows import (
    chunks_of,
    columns_of_classes,
    input_rows,
    shape_of_targets,
)
from ..hierarchy import Hierarchy
from ..spaces import LogitSpace, TargetSpace
from .compare import Comparison, check_indices

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LogitLabels", "Scored", "score"]


class LogitLabels(TypedDict, total=False):
    """What the logits and the targets are, and which rows count.

    Keys:
        logit_space: what the class dimension of the logits holds: "classes" (the default), one
            logit for each of the hierarchy's "nodes", or the classes in "depth_first" order.
        target_space: what `target` holds: labels of "classes" (the default) or ids of "nodes".
        ignore_index: rows with this target are left out; −100 by default.
    """

    logit_space: LogitSpace
    target_space: TargetSpace
    ignore_index: int


@dataclass(frozen=True)
class Scored:
    """R rows of logits, and their truths as points.

    Attributes:
        points: of the hierarchy.
        rows: (R, columns).
        target: int64 (R), points.
        logit_space: what the columns are.
    """

    points: Points
    rows: Tensor
    target: Tensor
    logit_space: LogitSpace

    @property
    def hierarchy(self) -> Hierarchy:
        """The hierarchy of the rows and targets."""
        return self.points.hierarchy

    def chunks(self) -> Iterator[Scored]:
        """A few rows at a time, so that what is computed from them stays small; at least one
        chunk."""
        first = 0
        for rows in chunks_of(self.rows, self.points.num_points):
            yield replace(self, rows=rows, target=self.target[first : first + len(rows)])
            first += len(rows)

    def top(self, k: int) -> Comparison:
        """The k most probable classes of each row beside its truth: R · k pairs, row by row.

        Raises:
            ValueError: k is outside 1 to C.
        """
        num_classes = self.hierarchy.num_classes
        if not 1 <= k <= num_classes:
            raise ValueError(f"k = {k} is outside 1 to {num_classes}, the number of classes")
        tables = self.points.on(self.rows.device)
        columns = columns_of_classes(self.hierarchy, self.logit_space, self.rows.device)
        rows = self.rows if columns is None else self.rows.index_select(1, columns)
        label = rows.topk(k, dim=1).indices
        return Comparison(
            self.points, tables.of_class[label].flatten(), self.target.repeat_interleave(k)
        )


def score(
    input: Tensor, target: Tensor, hierarchy: Hierarchy, **labels: Unpack[LogitLabels]
) -> Scored:
    """The rows that count, checked.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: integer, the input's shape without its class dimension.
        hierarchy: of both.
        labels: see `LogitLabels`.

    Raises:
        TypeError: input that is not floating point, a target that does not hold integers.
        ValueError: the shapes do not fit, or there is no such space.
        IndexError: a target is outside its space.
    """
    logit_space = labels.get("logit_space", "classes")
    target_space = labels.get("target_space", "classes")
    rows = input_rows(input, hierarchy, logit_space)
    if target.shape != shape_of_targets(input):
        raise ValueError(
            f"target must be {tuple(shape_of_targets(input))} indices beside logits of shape "
            f"{tuple(input.shape)}; got {tuple(target.shape)}"
        )
    target = target.flatten()
    kept = target != labels.get("ignore_index", -100)
    if not bool(kept.all()):
        rows, target = rows[kept], target[kept]
    check_indices("target", target, hierarchy, target_space)
    points = points_of(hierarchy)
    return Scored(points, rows, points.of(target, target_space), logit_space)
