"""The metrics as `torchmetrics` classes: they add up over batches and ranks, and divide at the end.

The mean of a figure over batches is not the figure of all rows where its denominator differs
between batches, as the number of mistakes does in their mean severity. These classes sum numerator
and denominator, so that `self.log("severity", metric)` in Lightning logs the figure of the epoch.

Needs `pip install hace-kernels[torchmetrics]`. The functions of `hace.metrics` give the same
figures for one batch.

Examples:
    >>> import torch, hace, hace.torchmetrics
    >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
    >>> severity = hace.torchmetrics.MistakeSeverity(tree)
    >>> severity.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # answers, truths
    >>> severity.update(torch.tensor([0, 2]), torch.tensor([2, 2]))
    >>> severity.compute()
    tensor(1.5000)
    >>> top_2 = hace.torchmetrics.TopKAccuracy(tree, k=2)  # of logits
    >>> top_2.update(torch.tensor([[2.0, 1.9, 0.0]]), torch.tensor([1]))
    >>> top_2.compute()
    tensor(1.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .answers.specificity import Specificity
from .hierarchy import Hierarchy
from .metrics.answers import (
    accuracy_ratio,
    coverage_ratio,
    deficient_ratio,
    excess_ratio,
    related_ratio,
)
from .metrics.calibration import Reliability, reliability_of
from .metrics.compare import Comparison, compare
from .metrics.distances import Distance, distance_ratio, severity_ratio
from .metrics.levels import level_ratio, sibling_ratio
from .metrics.nodes import node_counts
from .metrics.operating import OperatingCurve, OperatingSteps, operating_steps
from .metrics.rankings import best_distance_ratio, distance_at_k_ratio, top_k_ratio
from .metrics.ratio import Ratio
from .metrics.scored import Scored, score
from .metrics.sets import Average, f1_ratio, precision_ratio, recall_ratio

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hace.torchmetrics needs the package torchmetrics: pip install hace-kernels[torchmetrics]; "
        "hace.metrics has the same figures as functions"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .metrics.compare import Labels
    from .metrics.scored import LogitLabels

__all__ = [
    "Accuracy",
    "AncestorOrDescendantAccuracy",
    "BestDistanceAtK",
    "Coverage",
    "DeficientDepth",
    "DistanceAtK",
    "ExcessDepth",
    "HierarchicalF1",
    "HierarchicalPrecision",
    "HierarchicalRecall",
    "LevelAccuracies",
    "LevelCalibrationError",
    "MeanDistance",
    "MistakeSeverity",
    "NodeAccuracy",
    "OperatingCurveArea",
    "SiblingAccuracy",
    "TopKAccuracy",
]


class _RatioMetric(Metric):
    """Sums a ratio's numerator and denominator over batches and ranks."""

    is_differentiable = False
    full_state_update = False
    numerator: Tensor
    denominator: Tensor

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        zero = torch.zeros(shape, dtype=torch.float64)
        self.add_state("numerator", zero, dist_reduce_fx="sum")
        self.add_state("denominator", zero.clone(), dist_reduce_fx="sum")

    def _add(self, ratio: Ratio) -> None:
        self.numerator += ratio.numerator
        self.denominator += ratio.denominator

    def compute(self) -> Tensor:
        """The figure of all rows so far."""
        return Ratio(self.numerator, self.denominator).value()


class _OfAnswers(_RatioMetric):
    """A metric of answers beside truths.

    Args:
        hierarchy: of both.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.
    """

    _ratio: ClassVar[Callable[..., Ratio]]

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        options: dict[str, Any] | None = None,
        shape: tuple[int, ...] = (),
        labels: Labels,
    ) -> None:
        super().__init__(shape)
        self._hierarchy, self._options, self._labels = hierarchy, options or {}, labels

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Adds the rows of a batch: integer answers and truths of one shape."""
        comparison = compare(pred, target, self._hierarchy, **self._labels)
        self._add(type(self)._ratio(comparison, **self._options))


class _OfLogits(_RatioMetric):
    """A metric of logits beside truths.

    Args:
        hierarchy: of both.
        labels: `logit_space`, `target_space`, `ignore_index`, see `hace.metrics.LogitLabels`.
    """

    _ratio: ClassVar[Callable[..., Ratio]]

    def __init__(
        self, hierarchy: Hierarchy, *, options: dict[str, Any], labels: LogitLabels
    ) -> None:
        super().__init__()
        self._hierarchy, self._options, self._labels = hierarchy, options, labels

    def update(self, input: Tensor, target: Tensor) -> None:
        """Adds the rows of a batch: logits (N, C, …) and integer truths (N, …)."""
        scored = score(input, target, self._hierarchy, **self._labels)
        self._add(type(self)._ratio(scored, **self._options))


class Accuracy(_OfAnswers):
    """`hace.metrics.accuracy` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.Accuracy(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor(0.5000)
    """

    _ratio = staticmethod(accuracy_ratio)
    higher_is_better = True

    def __init__(self, hierarchy: Hierarchy, **labels: Unpack[Labels]) -> None:
        super().__init__(hierarchy, labels=labels)


class Coverage(_OfAnswers):
    """`hace.metrics.coverage` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.Coverage(tree, pred_space="nodes")
        >>> animal = tree.index("animal")
        >>> metric.update(torch.tensor([animal, 0]), torch.tensor([0, 1]))  # animal and cat
        >>> metric.update(torch.tensor([2]), torch.tensor([2]))
        >>> metric.compute()
        tensor(0.6667)
    """

    _ratio = staticmethod(coverage_ratio)
    higher_is_better = True

    def __init__(self, hierarchy: Hierarchy, **labels: Unpack[Labels]) -> None:
        super().__init__(hierarchy, labels=labels)


class AncestorOrDescendantAccuracy(_OfAnswers):
    """`hace.metrics.ancestor_or_descendant_accuracy` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.AncestorOrDescendantAccuracy(tree, pred_space="nodes")
        >>> animal = tree.index("animal")
        >>> metric.update(torch.tensor([animal, 0]), torch.tensor([0, 1]))  # animal and cat
        >>> metric.update(torch.tensor([2]), torch.tensor([2]))
        >>> metric.compute()
        tensor(0.6667)
    """

    _ratio = staticmethod(related_ratio)
    higher_is_better = True

    def __init__(self, hierarchy: Hierarchy, **labels: Unpack[Labels]) -> None:
        super().__init__(hierarchy, labels=labels)


class ExcessDepth(_OfAnswers):
    """`hace.metrics.excess_depth` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.ExcessDepth(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor(0.7500)
    """

    _ratio = staticmethod(excess_ratio)
    higher_is_better = False

    def __init__(self, hierarchy: Hierarchy, **labels: Unpack[Labels]) -> None:
        super().__init__(hierarchy, labels=labels)


class DeficientDepth(_OfAnswers):
    """`hace.metrics.deficient_depth` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.DeficientDepth(tree, pred_space="nodes")
        >>> animal = tree.index("animal")
        >>> metric.update(torch.tensor([animal, 0]), torch.tensor([0, 1]))  # animal and cat
        >>> metric.update(torch.tensor([2]), torch.tensor([2]))
        >>> metric.compute()
        tensor(0.6667)
    """

    _ratio = staticmethod(deficient_ratio)
    higher_is_better = False

    def __init__(self, hierarchy: Hierarchy, **labels: Unpack[Labels]) -> None:
        super().__init__(hierarchy, labels=labels)


class SiblingAccuracy(_OfAnswers):
    """`hace.metrics.sibling_accuracy` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.SiblingAccuracy(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor(0.7500)
    """

    _ratio = staticmethod(sibling_ratio)
    higher_is_better = True

    def __init__(self, hierarchy: Hierarchy, **labels: Unpack[Labels]) -> None:
        super().__init__(hierarchy, labels=labels)


class MistakeSeverity(_OfAnswers):
    """`hace.metrics.mistake_severity` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.MistakeSeverity(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor(1.5000)
    """

    _ratio = staticmethod(severity_ratio)
    higher_is_better = False

    def __init__(
        self, hierarchy: Hierarchy, *, distance: Distance = "height", **labels: Unpack[Labels]
    ) -> None:
        super().__init__(hierarchy, options={"distance": distance}, labels=labels)


class MeanDistance(_OfAnswers):
    """`hace.metrics.mean_distance` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.MeanDistance(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor(0.7500)
    """

    _ratio = staticmethod(distance_ratio)
    higher_is_better = False

    def __init__(
        self, hierarchy: Hierarchy, *, distance: Distance = "height", **labels: Unpack[Labels]
    ) -> None:
        super().__init__(hierarchy, options={"distance": distance}, labels=labels)


class HierarchicalPrecision(_OfAnswers):
    """`hace.metrics.hierarchical_precision` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.HierarchicalPrecision(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor(0.6250)
    """

    _ratio = staticmethod(precision_ratio)
    higher_is_better = True

    def __init__(
        self, hierarchy: Hierarchy, *, average: Average = "micro", **labels: Unpack[Labels]
    ) -> None:
        super().__init__(hierarchy, options={"average": average}, labels=labels)


class HierarchicalRecall(_OfAnswers):
    """`hace.metrics.hierarchical_recall` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.HierarchicalRecall(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor(0.6250)
    """

    _ratio = staticmethod(recall_ratio)
    higher_is_better = True

    def __init__(
        self, hierarchy: Hierarchy, *, average: Average = "micro", **labels: Unpack[Labels]
    ) -> None:
        super().__init__(hierarchy, options={"average": average}, labels=labels)


class HierarchicalF1(_OfAnswers):
    """`hace.metrics.hierarchical_f1` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.HierarchicalF1(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor(0.6250)
    """

    _ratio = staticmethod(f1_ratio)
    higher_is_better = True

    def __init__(
        self, hierarchy: Hierarchy, *, average: Average = "micro", **labels: Unpack[Labels]
    ) -> None:
        super().__init__(hierarchy, options={"average": average}, labels=labels)


class LevelAccuracies(_OfAnswers):
    """`hace.metrics.level_accuracies` of all batches and ranks: (`hierarchy.depth` + 1,).

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.LevelAccuracies(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()
        tensor([0.7500, 0.5000])
    """

    _ratio = staticmethod(level_ratio)
    higher_is_better = True

    def __init__(self, hierarchy: Hierarchy, **labels: Unpack[Labels]) -> None:
        super().__init__(hierarchy, shape=(hierarchy.depth + 1,), labels=labels)


def _recall(c: Comparison) -> Ratio:
    return node_counts(c).recall


class NodeAccuracy(_OfAnswers):
    """`hace.metrics.node_accuracy` of all batches and ranks: (`hierarchy.num_nodes`,).

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.NodeAccuracy(tree)
        >>> metric.update(torch.tensor([0, 0]), torch.tensor([0, 1]))  # cat for a cat and for a dog
        >>> metric.update(torch.tensor([0, 2]), torch.tensor([2, 2]))  # cat and car for two cars
        >>> metric.compute()[tree.index("vehicle")]
        tensor(0.5000)
    """

    _ratio = staticmethod(_recall)
    higher_is_better = True

    def __init__(self, hierarchy: Hierarchy, **labels: Unpack[Labels]) -> None:
        super().__init__(hierarchy, shape=(hierarchy.num_nodes,), labels=labels)


class TopKAccuracy(_OfLogits):
    """`hace.metrics.top_k_accuracy` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.TopKAccuracy(tree, k=2)
        >>> metric.update(torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0]]), torch.tensor([1, 0]))
        >>> metric.update(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([2]))
        >>> metric.compute()
        tensor(1.)
    """

    _ratio = staticmethod(top_k_ratio)
    higher_is_better = True

    def __init__(self, hierarchy: Hierarchy, k: int = 1, **labels: Unpack[LogitLabels]) -> None:
        super().__init__(hierarchy, options={"k": k}, labels=labels)


class DistanceAtK(_OfLogits):
    """`hace.metrics.distance_at_k` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.DistanceAtK(tree, k=2)
        >>> metric.update(torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0]]), torch.tensor([1, 0]))
        >>> metric.update(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([2]))
        >>> metric.compute()
        tensor(0.6667)
    """

    _ratio = staticmethod(distance_at_k_ratio)
    higher_is_better = False

    def __init__(
        self,
        hierarchy: Hierarchy,
        k: int = 1,
        *,
        distance: Distance = "height",
        **labels: Unpack[LogitLabels],
    ) -> None:
        super().__init__(hierarchy, options={"k": k, "distance": distance}, labels=labels)


class BestDistanceAtK(_OfLogits):
    """`hace.metrics.best_distance_at_k` of all batches and ranks.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.BestDistanceAtK(tree, k=2)
        >>> metric.update(torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0]]), torch.tensor([1, 0]))
        >>> metric.update(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([2]))
        >>> metric.compute()
        tensor(0.)
    """

    _ratio = staticmethod(best_distance_ratio)
    higher_is_better = False

    def __init__(
        self,
        hierarchy: Hierarchy,
        k: int = 1,
        *,
        distance: Distance = "height",
        **labels: Unpack[LogitLabels],
    ) -> None:
        super().__init__(hierarchy, options={"k": k, "distance": distance}, labels=labels)


class LevelCalibrationError(Metric):
    """`hace.metrics.level_calibration_error` of all batches and ranks: (`hierarchy.depth` + 1,).

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.LevelCalibrationError(tree)
        >>> metric.update(torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0]]), torch.tensor([1, 0]))
        >>> metric.update(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([2]))
        >>> metric.compute()
        tensor([0.1082, 0.2646])
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    count: Tensor
    confidence: Tensor
    right: Tensor

    def __init__(
        self, hierarchy: Hierarchy, *, bins: int = 15, **labels: Unpack[LogitLabels]
    ) -> None:
        super().__init__()
        self._hierarchy, self._bins, self._labels = hierarchy, bins, labels
        shape = (hierarchy.depth + 1, bins)
        for name, dtype in (("count", torch.int64), ("right", torch.int64)):
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")
        confidence = torch.zeros(shape, dtype=torch.float64)
        self.add_state("confidence", confidence, dist_reduce_fx="sum")

    def update(self, input: Tensor, target: Tensor) -> None:
        """Adds the rows of a batch: logits (N, C, …) and integer truths (N, …)."""
        scored = score(input, target, self._hierarchy, **self._labels)
        of_batch = reliability_of(scored, self._bins)
        self.count += of_batch.count
        self.confidence += of_batch.confidence
        self.right += of_batch.right

    def reliability(self) -> Reliability:
        """The reliability of the rows so far on this rank, for a picture."""
        return Reliability(self.count, self.confidence, self.right)

    def compute(self) -> Tensor:
        """The figures of all rows so far."""
        return self.reliability().error()


class OperatingCurveArea(Metric):
    """The area of `hace.metrics.operating_curve` of all batches and ranks.

    Keeps every step of the curve: a few numbers per row.

    Examples:
        >>> import torch, hace, hace.torchmetrics
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> metric = hace.torchmetrics.OperatingCurveArea(tree)
        >>> metric.update(torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0]]), torch.tensor([1, 0]))
        >>> metric.update(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([2]))
        >>> metric.compute()
        tensor(0.9649)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    log_prob: list[Tensor]
    right: list[Tensor]
    information: list[Tensor]
    num_rows: Tensor

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        specificity: Specificity = "information",
        **labels: Unpack[LogitLabels],
    ) -> None:
        super().__init__()
        self._hierarchy, self._specificity, self._labels = hierarchy, specificity, labels
        for name in ("log_prob", "right", "information"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("num_rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, input: Tensor, target: Tensor) -> None:
        """Adds the rows of a batch: logits (N, C, …) and integer truths (N, …)."""
        steps = self._steps(score(input, target, self._hierarchy, **self._labels))
        self.log_prob.append(steps.log_prob)
        self.right.append(steps.right)
        self.information.append(steps.information)
        self.num_rows += steps.num_rows

    def curve(self) -> OperatingCurve:
        """The curve of all rows so far on this rank, for a picture."""
        none = self._steps(_no_rows(self._hierarchy, self.num_rows.device))
        if not len(self.log_prob):
            return none.curve()
        return OperatingSteps(
            dim_zero_cat(self.log_prob),
            dim_zero_cat(self.right),
            dim_zero_cat(self.information),
            self.num_rows,
            none.most,
        ).curve()

    def compute(self) -> Tensor:
        """The area of all rows so far."""
        return self.curve().area()

    def _steps(self, scored: Scored) -> OperatingSteps:
        return operating_steps(scored, self._specificity)


def _no_rows(hierarchy: Hierarchy, device: torch.device) -> Scored:
    logits = torch.empty(0, hierarchy.num_classes, device=device)
    return score(logits, torch.empty(0, dtype=torch.int64, device=device), hierarchy)
