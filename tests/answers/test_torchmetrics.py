"""The torchmetrics classes: batches and ranks combine to the figure of all rows."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from answers_oracle import hierarchy_of
from shapes import TREES

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

import torchmetrics

import hace.torchmetrics as tm
from hace import metrics

#: Each class with its keywords, and the function of `hace.metrics` that it corresponds to.
OF_ANSWERS: dict[str, tuple[dict[str, Any], Any]] = {
    "Accuracy": ({}, metrics.accuracy),
    "AncestorOrDescendantAccuracy": ({}, metrics.ancestor_or_descendant_accuracy),
    "Coverage": ({}, metrics.coverage),
    "DeficientDepth": ({}, metrics.deficient_depth),
    "ExcessDepth": ({}, metrics.excess_depth),
    "HierarchicalF1": ({"average": "macro"}, metrics.hierarchical_f1),
    "HierarchicalPrecision": ({}, metrics.hierarchical_precision),
    "HierarchicalRecall": ({}, metrics.hierarchical_recall),
    "LevelAccuracies": ({}, metrics.level_accuracies),
    "MeanDistance": ({"distance": "hops"}, metrics.mean_distance),
    "MistakeSeverity": ({"distance": "depth"}, metrics.mistake_severity),
    "NodeAccuracy": ({}, metrics.node_accuracy),
    "SiblingAccuracy": ({"ignore_index": 3}, metrics.sibling_accuracy),
}
OF_LOGITS: dict[str, tuple[dict[str, Any], Any]] = {
    "BestDistanceAtK": ({"k": 3}, metrics.best_distance_at_k),
    "DistanceAtK": ({"k": 2, "distance": "hops"}, metrics.distance_at_k),
    "LevelCalibrationError": ({"bins": 5}, metrics.level_calibration_error),
    "OperatingCurveArea": (
        {"specificity": "depth"},
        lambda *args, **keywords: metrics.operating_curve(*args, **keywords).area(),
    ),
    "TopKAccuracy": ({"k": 2}, metrics.top_k_accuracy),
}
ALL = OF_ANSWERS | OF_LOGITS


def test_every_class_is_tried() -> None:
    assert set(tm.__all__) == set(ALL)


@pytest.fixture
def tree(rng: np.random.Generator) -> Any:
    return hierarchy_of(TREES["inner classes"](rng))


def rows_of(name: str, tree: Any) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.randint(tree.num_classes, (50,))
    if name in OF_LOGITS:
        return torch.randn(50, tree.num_classes), target
    pred = torch.randint(tree.num_classes, (50,))
    pred[:20] = target[:20]  # so that batches differ
    return pred, target


@pytest.mark.parametrize("name", ALL)
def test_batches_add_up(name: str, tree: Any) -> None:
    keywords, function = ALL[name]
    metric = getattr(tm, name)(tree, **keywords)
    x, y = rows_of(name, tree)
    for part in (slice(0, 7), slice(7, 30), slice(30, 50)):
        of_batch = metric(x[part], y[part])  # returns the figure of this batch
        torch.testing.assert_close(
            of_batch, function(x[part], y[part], tree, **keywords), equal_nan=True
        )
    expected = function(x, y, tree, **keywords)
    torch.testing.assert_close(metric.compute(), expected, equal_nan=True)
    copied = pickle.loads(pickle.dumps(metric))
    torch.testing.assert_close(copied.compute(), expected, equal_nan=True)
    metric.reset()
    metric.update(x[:9], y[:9])
    first = function(x[:9], y[:9], tree, **keywords)
    torch.testing.assert_close(metric.compute(), first, equal_nan=True)


@pytest.mark.parametrize("name", ALL)
def test_ranks_add_up(name: str, tree: Any) -> None:
    """The states of two ranks, gathered as `torch.distributed` would, give the whole figure."""
    keywords, function = ALL[name]
    x, y = rows_of(name, tree)
    ranks = [getattr(tm, name)(tree, **keywords) for _ in range(2)]
    ranks[0].update(x[:15], y[:15])
    ranks[1].update(x[15:], y[15:])
    one = ranks[0]
    one._reduce_states(ranks[1].metric_state)
    expected = function(x, y, tree, **keywords)
    torch.testing.assert_close(one.compute(), expected, equal_nan=True)


def test_severity_is_not_a_mean_of_batches(tree: Any) -> None:
    metric = tm.MistakeSeverity(tree)
    x, y = rows_of("MistakeSeverity", tree)
    batches = [metrics.mistake_severity(x[i : i + 25], y[i : i + 25], tree) for i in (0, 25)]
    metric.update(x, y)
    assert metric.compute() != torch.stack(batches).mean()


@pytest.mark.parametrize("name", ALL)
def test_before_any_batch(name: str, tree: Any) -> None:
    keywords, _ = ALL[name]
    metric = getattr(tm, name)(tree, **keywords)
    with pytest.warns(UserWarning, match="before"):
        assert metric.compute().isnan().all()


def test_in_a_collection(tree: Any) -> None:
    collection = torchmetrics.MetricCollection([tm.Accuracy(tree), tm.MistakeSeverity(tree)])
    x, y = rows_of("Accuracy", tree)
    collection.update(x, y)
    assert set(collection.compute()) == {"Accuracy", "MistakeSeverity"}
