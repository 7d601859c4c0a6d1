"""Accuracy against informativeness: what is gained by stopping at coarser nodes.

The answer at a threshold is the most specific node with at least that probability. As the threshold
falls from 1 to 0, each row's answer goes through its Pareto-optimal nodes, from the whole forest to
a class. The curve has every threshold at which some row's answer changes.

Source: Valmadre, *Hierarchical classification at multiple operating points*, NeurIPS 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hace_kernels.widest import widened

from ..answers.rows import node_log_prob_rows
from ..answers.specificity import Specificity, pareto_steps, specificity_of
from ..hierarchy import Hierarchy
from .compare import Comparison
from .scored import Scored, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .scored import LogitLabels

__all__ = ["OperatingCurve", "OperatingSteps", "operating_curve", "operating_steps"]


class OperatingCurve(NamedTuple):
    """Accuracy and information at each threshold, from the highest on: S + 1 points.

    Attributes:
        threshold: (S+1), descending. At the first, which is infinite, every answer is the whole
            forest.
        accuracy: (S+1), share of the rows whose answer is the truth, above it or below it.
        information: (S+1), ascending, what the answers say on average, as a share of the most
            that an answer can say: 0 for the whole forest, 1 for a class.
    """

    threshold: Tensor
    accuracy: Tensor
    information: Tensor

    def area(self) -> Tensor:
        """The area under the accuracy as a piecewise linear function of the information.

        1 where nothing is ever wrong, and 1/2 for a model that is always certain and always wrong.
        """
        area = torch.trapezoid(self.accuracy, self.information)
        nothing_to_say = ~(self.information[-1] > 0)
        return torch.where(nothing_to_say, self.accuracy[-1], area)


@dataclass(frozen=True)
class OperatingSteps:
    """Every change of an answer in R rows. Steps of batches can be concatenated.

    Attributes:
        log_prob: (S), the log-probability at which the answer changes.
        right: int64 (S), how much the number of right answers changes: −1, 0 or 1.
        information: float64 (S), how much the information of all answers grows.
        num_rows: int64 scalar, R.
        most: the most information that an answer can have.
    """

    log_prob: Tensor
    right: Tensor
    information: Tensor
    num_rows: Tensor
    most: float

    def curve(self) -> OperatingCurve:
        """The curve of all these rows."""
        log_prob, order = widened(self.log_prob).sort(descending=True, stable=True)
        # Steps at one threshold are taken together.
        last = torch.ones_like(log_prob, dtype=torch.bool)
        last[:-1] = log_prob[1:] < log_prob[:-1]
        right = self.num_rows + self.right[order].cumsum(0)[last]
        information = self.information[order].cumsum(0)[last] / max(self.most, 1e-300)
        start = torch.stack([self.num_rows, torch.zeros_like(self.num_rows)])[:, None]
        dtype = torch.get_default_dtype()
        points = torch.cat([start, torch.stack([right, information])], 1) / self.num_rows
        never = log_prob.new_full((1,), torch.inf)
        threshold = torch.cat([never, log_prob[last].exp().clamp(max=1)]).to(dtype)
        return OperatingCurve(threshold, *points.to(dtype))


def operating_steps(s: Scored, specificity: Specificity = "information") -> OperatingSteps:
    """The operating curve of scored rows."""
    table = specificity_of(s.hierarchy, specificity, s.rows.device)
    parts = []
    for chunk in s.chunks():
        log_prob = node_log_prob_rows(chunk.rows, s.hierarchy, s.logit_space)
        row, node, at = pareto_steps(log_prob, table)
        c = Comparison(s.points, node, chunk.target[row])
        right = (c.is_above | c.is_below).long()
        value = table.value[node]
        # Before its first step a row's answer is the whole forest, which is right and has no
        # information.
        first = torch.ones_like(row, dtype=torch.bool)
        first[1:] = row[1:] != row[:-1]
        parts.append(
            (
                at,
                right - torch.where(first, 1, right.roll(1)),
                value - torch.where(first, 0.0, value.roll(1)),
            )
        )
    at, right, value = (torch.cat(part) for part in zip(*parts, strict=True))
    num_rows = torch.tensor(len(s.rows), device=s.rows.device)
    return OperatingSteps(at, right, value, num_rows, float(table.value.max()))


def operating_curve(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    specificity: Specificity = "information",
    **labels: Unpack[LogitLabels],
) -> OperatingCurve:
    """Accuracy and informativeness at every threshold. `area()` is one figure for all of it.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: integer, the input's shape without its class dimension.
        hierarchy: of both; DAGs too.
        specificity: the information of an answer: "information", log2(C / classes at or below it),
            or "depth".
        labels: `logit_space`, `target_space`, `ignore_index`, see `hace.metrics.LogitLabels`.

    Returns:
        The curve; NaN without rows.

    Raises:
        TypeError: input that is not floating point, a target that does not hold integers.
        ValueError: the shapes do not fit, or there is no such specificity.
        IndexError: a target is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> hace.metrics.operating_curve(logits, target, tree).area()
        tensor(0.9649)
    """
    return operating_steps(score(input, target, hierarchy, **labels), specificity).curve()
