"""Finds the threshold or bonus with which answers reach a wanted accuracy on held-out rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hace_kernels.widest import widened

from ..answers.rows import node_log_prob_rows
from ..answers.specificity import Specificity, pareto_steps, specificity_of
from ..metrics.compare import Comparison
from ..metrics.operating import operating_steps
from ..metrics.scored import Scored, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..hierarchy import Hierarchy
    from ..metrics.scored import LogitLabels

__all__ = ["calibrate_bonus", "calibrate_threshold"]

_BISECTIONS = 60
_BEYOND = 2e-3


def calibrate_threshold(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    accuracy: float = 0.95,
    *,
    specificity: Specificity = "depth",
    **labels: Unpack[LogitLabels],
) -> float:
    """The lowest threshold of `deepest_node` from which on answers are as accurate as wanted.

    An answer is right where it is the truth, above it or (for coarse truths) below it. At this
    threshold and every higher one the accuracy on these rows is at least `accuracy`. For other rows
    nothing is guaranteed (`conformal_threshold` gives a guarantee).

    Args:
        input: logits (C), (N, C) or (N, C, d1, …) of held-out rows.
        target: their truths, integer, the input's shape without its class dimension.
        hierarchy: of both; DAGs too.
        accuracy: the wanted share of right answers, in [0, 1].
        specificity: as it will be given to `deepest_node`.
        labels: `logit_space`, `target_space`, `ignore_index`, see `hace.metrics.LogitLabels`.

    Returns:
        A probability; infinity if no answer is accurate enough except to say nothing.

    Raises:
        TypeError: input that is not floating point, a target that does not hold integers.
        ValueError: the shapes do not fit, an option is outside its range, or there are no rows.
        IndexError: a target is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> threshold = hace.decode.calibrate_threshold(logits, target, tree, accuracy=0.95)
        >>> answers = hace.decode.deepest_node(logits, tree, threshold)
        >>> [tree.names[node] for node in answers]
        ['animal', 'animal/cat', 'vehicle/car']
    """
    scored = _checked(score(input, target, hierarchy, **labels), accuracy)
    curve = operating_steps(scored, specificity).curve()
    enough = curve.accuracy >= accuracy - 1e-9
    held = int(enough.long().cumprod(0).sum())
    # Between two thresholds of the curve the answers do not change; the middle is safe from
    # rounding.
    if held == len(enough):
        return 0.0
    above, below = curve.threshold[held - 1].item(), curve.threshold[held].item()
    if above == math.inf and below >= 1:
        return math.inf
    return (min(above, 1.0) + below) / 2


def calibrate_bonus(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    accuracy: float = 0.95,
    *,
    specificity: Specificity = "information",
    **labels: Unpack[LogitLabels],
) -> float:
    """A bonus of `expected_information` with which answers are as accurate as wanted.

    The least is found by bisection, as Deng et al., CVPR 2012, section 4, do. There some row has
    two answers of equal worth, and rounding would say which is given: what is returned lies beyond
    it, before the next such bonus and by a thousandth at most. Arguments and errors as for
    `calibrate_threshold`.

    Returns:
        The bonus, in bits (in edges for "depth").

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> bonus = hace.decode.calibrate_bonus(logits, target, tree, accuracy=0.95)
        >>> answers = hace.decode.expected_information(logits, tree, bonus)
        >>> [tree.names[node] for node in answers]
        ['animal', 'animal/cat', 'vehicle/car']
    """
    scored = _checked(score(input, target, hierarchy, **labels), accuracy)
    answers = _Answers(scored, specificity)
    if answers.accuracy(0.0) >= accuracy:
        return 0.0
    enough = 1.0
    while answers.accuracy(enough) < accuracy and enough < 2.0**60:
        enough *= 2
    too_little = 0.0
    for _ in range(_BISECTIONS):
        middle = (too_little + enough) / 2
        if answers.accuracy(middle) >= accuracy:
            enough = middle
        else:
            too_little = middle
    return (enough + min(answers.next_change(enough), enough + _BEYOND * (1 + enough))) / 2


class _Answers:
    """The possible answers at any bonus: the Pareto-optimal nodes of each row, or saying
    nothing."""

    def __init__(self, s: Scored, specificity: Specificity) -> None:
        table = specificity_of(s.hierarchy, specificity, s.rows.device)
        rows, probabilities, values, rights = [], [], [], []
        first = 0
        for chunk in s.chunks():
            log_prob = node_log_prob_rows(chunk.rows, s.hierarchy, s.logit_space)
            steps = pareto_steps(log_prob, table)
            c = Comparison(s.points, steps.node, chunk.target[steps.row])
            rows.append(steps.row + first)
            probabilities.append(widened(steps.log_prob).exp())
            values.append(table.value[steps.node])
            rights.append(c.is_above | c.is_below)
            first += len(chunk.rows)
        nothing = torch.arange(len(s.rows), device=s.rows.device)
        self._row = torch.cat([*rows, nothing])
        self._probability = torch.cat([*probabilities, widened(torch.ones_like(nothing))])
        self._value = torch.cat([*values, widened(torch.zeros_like(nothing))])
        self._right = torch.cat([*rights, torch.ones_like(nothing).bool()])
        self._num_rows = len(nothing)

    def accuracy(self, bonus: float) -> float:
        """The share of right answers."""
        return widened(self._right[self._chosen(bonus)]).mean().item()

    def next_change(self, bonus: float) -> float:
        """The next larger bonus with which the answer to some row changes; infinite if there is
        none."""
        chosen = self._chosen(bonus)[self._row]
        probability, value = self._probability[chosen], self._value[chosen]
        more = self._probability - probability
        at = (probability * value - self._probability * self._value) / more
        at = at[(more > 0) & (at > bonus)]
        return at.min().item() if len(at) else math.inf

    def _chosen(self, bonus: float) -> Tensor:
        of_answer = self._probability * (self._value + bonus)
        best = of_answer.new_zeros(self._num_rows)
        best = best.scatter_reduce(0, self._row, of_answer, "amax", include_self=False)
        # The first among equals, as `expected_information` does it.
        place = torch.arange(len(self._row), device=self._row.device)
        chosen = torch.where(of_answer == best[self._row], place, len(place))
        first = torch.full_like(best, len(place), dtype=torch.int64)
        return first.scatter_reduce(0, self._row, chosen, "amin")


def _checked(s: Scored, accuracy: float) -> Scored:
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be from 0 to 1, got {accuracy!r}")
    if not len(s.rows):
        raise ValueError("there are no rows to calibrate on")
    return s
