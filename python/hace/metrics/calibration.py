"""Calibration at each level of a tree or forest: are answers right as often as predicted?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hace_kernels.widest import widened

from ..answers.ancestry import tree_ancestry_of
from ..answers.levels import best_by_level, has_answer
from ..answers.rows import point_log_prob_rows
from ..hierarchy import Hierarchy
from .scored import Scored, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .scored import LogitLabels

__all__ = ["Reliability", "level_calibration_error", "reliability", "reliability_of"]


@dataclass(frozen=True)
class Reliability:
    """The most probable answer of each level, by its probability, in K bins of equal width.

    Bin b holds probabilities in (b/K, (b+1)/K]. Sums of batches add up.

    Attributes:
        count: int64 (levels, K), rows.
        confidence: float64 (levels, K), the sum of their probabilities.
        right: int64 (levels, K), how many of them are right.
    """

    count: Tensor
    confidence: Tensor
    right: Tensor

    def __add__(self, other: Reliability) -> Reliability:
        """The counts of the rows of both."""
        return Reliability(
            self.count + other.count,
            self.confidence + other.confidence,
            self.right + other.right,
        )

    def error(self) -> Tensor:
        """Expected calibration error of each level, (levels); NaN where there are no rows."""
        gap = (self.right - self.confidence).abs().sum(1) / self.count.sum(1)
        return gap.to(torch.get_default_dtype())


def reliability_of(s: Scored, bins: int = 15) -> Reliability:
    """The reliability of scored rows."""
    if not bins >= 1:
        raise ValueError(f"bins must be at least 1, got {bins!r}")
    parts = [_of_chunk(chunk, bins) for chunk in s.chunks()]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _of_chunk(s: Scored, bins: int) -> Reliability:
    ancestry = tree_ancestry_of(s.points, s.rows.device, "calibration at a level")
    log_prob = point_log_prob_rows(s.rows, s.points, s.logit_space)
    counts, confidences, rights = [], [], []
    for level, best in enumerate(best_by_level(log_prob, s.points, 1)):
        truth = ancestry.at_depth(s.target, torch.tensor(level, device=s.target.device))
        known = has_answer(s.points, truth, level)
        confidence = widened(best.log_prob[known, 0].exp())
        right = (best.point[:, 0] == truth)[known].long()
        place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
        counts.append(torch.bincount(place, minlength=bins))
        confidences.append(widened(torch.zeros_like(counts[-1])))
        confidences[-1].index_add_(0, place, confidence)
        rights.append(torch.zeros_like(counts[-1]).index_add_(0, place, right))
    return Reliability(torch.stack(counts), torch.stack(confidences), torch.stack(rights))


def reliability(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    bins: int = 15,
    **labels: Unpack[LogitLabels],
) -> Reliability:
    """How often the most probable answer of each level is right, by how probable it is.

    The answers of a level are the nodes of that depth and the leaves that are less deep. Rows whose
    truth is coarser than the level do not count there.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: integer, the input's shape without its class dimension.
        hierarchy: of both; a tree or forest.
        bins: K.
        labels: `logit_space`, `target_space`, `ignore_index`, see `hace.metrics.LogitLabels`.

    Raises:
        TypeError: input that is not floating point, a target that does not hold integers.
        ValueError: a DAG, the shapes do not fit, or an option is outside its range.
        IndexError: a target is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> hace.metrics.reliability(logits, target, tree, bins=2).count
        tensor([[0, 3],
                [1, 2]])
    """
    return reliability_of(score(input, target, hierarchy, **labels), bins)


def level_calibration_error(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    bins: int = 15,
    **labels: Unpack[LogitLabels],
) -> Tensor:
    """Expected calibration error of each level (Naeini et al., AAAI 2015), roots first.

    The mean, over the rows, of how far the accuracy of a row's bin is from its mean confidence.
    Arguments and errors as for `reliability`.

    Returns:
        (`hierarchy.depth` + 1,), in [0, 1]; NaN without rows.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> hace.metrics.level_calibration_error(logits, target, tree)
        tensor([0.1082, 0.2646])
    """
    return reliability(input, target, hierarchy, bins=bins, **labels).error()
