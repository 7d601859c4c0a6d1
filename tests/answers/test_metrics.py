"""Metrics of answers agree with their definitions, computed slowly, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import trees
from answers_oracle import Picture, Point, hierarchy_of
from shapes import DAGS, TREES
from torch import Tensor

import hace
from hace import metrics

ROWS = 60


@dataclass(frozen=True)
class Case:
    """Answers and truths, also as pairs of points, and the keywords for their spaces."""

    hierarchy: hace.Hierarchy
    picture: Picture
    pred: Tensor
    target: Tensor
    pairs: list[tuple[Point, Point]]
    spaces: dict[str, Any]

    @property
    def args(self) -> tuple[Tensor, Tensor, hace.Hierarchy]:
        return self.pred, self.target, self.hierarchy

    def mean(self, figures: Sequence[float]) -> float:
        return sum(figures) / len(figures) if figures else math.nan


SPACES = {
    "classes": {},
    "nodes": {"target_space": "nodes"},
    "nodes for classes": {"pred_space": "nodes"},
    "classes for nodes": {"pred_space": "classes", "target_space": "nodes"},
}


def case_of(shape: Any, spaces: dict[str, str], rng: np.random.Generator) -> Case:
    hierarchy, picture = hierarchy_of(shape), Picture(shape)
    target_space = spaces.get("target_space", "classes")
    pred_space = spaces.get("pred_space", target_space)
    size = {"classes": hierarchy.num_classes, "nodes": hierarchy.num_nodes}
    least = -1 if pred_space == "nodes" else 0
    pred = rng.integers(least, size[pred_space], ROWS)
    target = rng.integers(0, size[target_space], ROWS)
    if pred_space == target_space:
        pred[::5] = target[::5]
    pairs = [
        (picture.of(p, pred_space), picture.of(t, target_space))
        for p, t in zip(pred.tolist(), target.tolist(), strict=True)
    ]
    return Case(hierarchy, picture, torch.from_numpy(pred), torch.from_numpy(target), pairs, spaces)


@pytest.fixture(params=SPACES)
def spaces(request: pytest.FixtureRequest) -> dict[str, str]:
    return SPACES[request.param]


@pytest.fixture(params=[*TREES, *(f"DAG: {name}" for name in DAGS)])
def case(request: pytest.FixtureRequest, spaces: dict[str, str], rng: np.random.Generator) -> Case:
    shape = DAGS[request.param[5:]] if request.param[:3] == "DAG" else TREES[request.param]
    return case_of(shape(rng), spaces, rng)


@pytest.fixture(params=TREES)
def tree_case(
    request: pytest.FixtureRequest, spaces: dict[str, str], rng: np.random.Generator
) -> Case:
    return case_of(TREES[request.param](rng), spaces, rng)


def test_rows(case: Case) -> None:
    """The height of the lowest common ancestor, and the number of edges between the two."""
    p = case.picture
    heights = metrics.lca_height(*case.args, **case.spaces)
    assert heights.tolist() == [p.heights[p.lca(a, b)] for a, b in case.pairs]
    edges = metrics.edge_distance(*case.args, **case.spaces)
    assert edges.tolist() == [p.hops(a, b) for a, b in case.pairs]


@pytest.mark.parametrize("distance", ["height", "depth", "hops"])
def test_distances(case: Case, distance: str) -> None:
    every = [case.picture.distance(a, b, distance) for a, b in case.pairs]
    wrong = [d for d, (a, b) in zip(every, case.pairs, strict=True) if a != b]
    found = metrics.mean_distance(*case.args, distance=distance, **case.spaces)
    assert found.item() == pytest.approx(case.mean(every))
    severity = metrics.mistake_severity(*case.args, distance=distance, **case.spaces)
    assert severity.item() == pytest.approx(case.mean(wrong), nan_ok=True)


def test_sets(case: Case) -> None:
    """Precision, recall and F1 of the paths as sets."""
    sets = [(case.picture.counted(a), case.picture.counted(b)) for a, b in case.pairs]
    both = sum(len(a & b) for a, b in sets)
    answers, truths = sum(len(a) for a, _ in sets), sum(len(b) for _, b in sets)
    expected = {
        "precision": both / answers if answers else math.nan,
        "recall": both / truths if truths else math.nan,
        "f1": 2 * both / (answers + truths) if answers + truths else math.nan,
    }
    of_rows: dict[str, list[float]] = {name: [] for name in expected}
    for a, b in sets:
        of_rows["precision"].append(len(a & b) / len(a) if a else 1.0)
        of_rows["recall"].append(len(a & b) / len(b) if b else 1.0)
        of_rows["f1"].append(2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0)
    for name, value in expected.items():
        metric = getattr(metrics, f"hierarchical_{name}")
        found = metric(*case.args, **case.spaces).item()
        assert found == pytest.approx(value, nan_ok=True), name
        found = metric(*case.args, average="macro", **case.spaces).item()
        assert found == pytest.approx(case.mean(of_rows[name])), name


def test_answers(case: Case) -> None:
    """Accuracy, coverage, and by how much answers are too deep or too shallow."""
    p = case.picture
    expected = {
        "accuracy": [a == b for a, b in case.pairs],
        "coverage": [a in p.above(b) for a, b in case.pairs],
        "ancestor_or_descendant_accuracy": [
            a in p.above(b) or b in p.above(a) for a, b in case.pairs
        ],
        "excess_depth": [len(p.counted(a) - p.counted(b)) for a, b in case.pairs],
        "deficient_depth": [len(p.counted(b) - p.counted(a)) for a, b in case.pairs],
    }
    for name, of_rows in expected.items():
        found = getattr(metrics, name)(*case.args, **case.spaces).item()
        assert found == pytest.approx(case.mean(of_rows)), name


def test_nodes(case: Case) -> None:
    """The numbers of truths, answers and hits at or below each node, and its accuracy."""
    p = case.picture
    counts = metrics.node_counts(metrics.compare(*case.args, **case.spaces))
    for node in range(case.hierarchy.num_nodes):
        truth = [node in p.above(b) for _, b in case.pairs]
        answer = [node in p.above(a) for a, _ in case.pairs]
        both = [t and a for t, a in zip(truth, answer, strict=True)]
        found = [int(of_node[node]) for of_node in counts]
        assert found == [sum(truth), sum(answer), sum(both)]
    accuracy = metrics.node_accuracy(*case.args, **case.spaces)
    expected = counts.both.double() / counts.truth
    torch.testing.assert_close(accuracy.double(), expected, equal_nan=True, rtol=1e-6, atol=0)


def test_levels(tree_case: Case) -> None:
    p = tree_case.picture
    expected = [
        tree_case.mean([p.at_level(a, level) == p.at_level(b, level) for a, b in tree_case.pairs])
        for level in range(tree_case.hierarchy.depth + 1)
    ]
    every = metrics.level_accuracies(*tree_case.args, **tree_case.spaces)
    assert every.tolist() == pytest.approx(expected)
    for level, accuracy in enumerate(expected):
        one = metrics.level_accuracy(*tree_case.args, level, **tree_case.spaces)
        assert one.item() == pytest.approx(accuracy)


def test_siblings(tree_case: Case) -> None:
    p = tree_case.picture
    parents = {point: above[0] for point, above in p.parents.items() if above}
    parents["top"] = "top"
    expected = tree_case.mean([parents[a] == parents[b] for a, b in tree_case.pairs])
    found = metrics.sibling_accuracy(*tree_case.args, **tree_case.spaces)
    assert found.item() == pytest.approx(expected)


def test_accuracy_at_the_deepest_level_is_plain_accuracy(tree_case: Case) -> None:
    deepest = metrics.level_accuracies(*tree_case.args, **tree_case.spaces)[-1]
    assert deepest == metrics.accuracy(*tree_case.args, **tree_case.spaces)


REDUCED = [
    metrics.accuracy,
    metrics.ancestor_or_descendant_accuracy,
    metrics.coverage,
    metrics.deficient_depth,
    metrics.excess_depth,
    metrics.hierarchical_f1,
    metrics.hierarchical_precision,
    metrics.hierarchical_recall,
    metrics.level_accuracies,
    metrics.mean_distance,
    metrics.mistake_severity,
    metrics.node_accuracy,
    metrics.sibling_accuracy,
]


@pytest.mark.parametrize("metric", REDUCED, ids=lambda metric: metric.__name__)
def test_ignored_rows_and_any_shape(metric: Any, rng: np.random.Generator) -> None:
    """Accepts (N, d1, d2), as for images, narrow integers, and ignored rows."""
    tree = hierarchy_of(TREES["inner classes"](rng))
    pred, target = torch.randint(tree.num_classes, (2, 3, 4, 5))
    expected = metric(pred.flatten()[10:], target.flatten()[10:], tree)
    target.view(-1)[:10] = -100
    assert torch.equal(expected, metric(pred, target, tree)) or expected.isnan().any()
    torch.testing.assert_close(metric(pred, target, tree), expected, equal_nan=True)
    short = metric(pred.to(torch.int32), target.to(torch.int16), tree)
    torch.testing.assert_close(short, expected, equal_nan=True)
    target.view(-1)[:10] = 200
    other = metric(pred, target, tree, ignore_index=200)
    torch.testing.assert_close(other, expected, equal_nan=True)


@pytest.mark.parametrize("metric", REDUCED, ids=lambda metric: metric.__name__)
def test_nothing_to_measure_is_nan(metric: Any) -> None:
    tree = hierarchy_of(trees.flat(3))
    none = torch.empty(0, dtype=torch.long)
    assert metric(none, none, tree).isnan().all()
    assert metric(torch.tensor([1]), torch.tensor([-100]), tree).isnan().all()


def test_severity_without_a_mistake_is_nan() -> None:
    tree = hierarchy_of(trees.flat(3))
    assert metrics.mistake_severity(torch.tensor([1]), torch.tensor([1]), tree).isnan()


def test_worked_example() -> None:
    tree = hace.Hierarchy.from_paths(["animal/dog/husky", "animal/cat/siamese", "vehicle/car"])
    husky, siamese, car = range(3)
    pred = torch.tensor([husky, siamese, car, husky])
    target = torch.tensor([husky, husky, husky, car])
    assert metrics.lca_height(pred, target, tree).tolist() == [0, 2, 3, 3]
    assert metrics.mistake_severity(pred, target, tree).item() == pytest.approx(8 / 3)
    assert metrics.edge_distance(pred, target, tree).tolist() == [0, 4, 5, 5]
    assert metrics.level_accuracies(pred, target, tree).tolist() == [0.5, 0.25, 0.25]
    assert metrics.sibling_accuracy(pred, target, tree).item() == 0.25
    assert metrics.hierarchical_precision(pred, target, tree).item() == pytest.approx(4 / 11)


def test_an_inner_class_is_a_leaf_below_its_node() -> None:
    """The label "animal" means that class alone; the node "animal" means all animals."""
    tree = hace.Hierarchy.from_paths(["animal", "animal/dog", "animal/cat/siamese", "car"])
    animal, dog = 0, 1
    label, other = torch.tensor([animal]), torch.tensor([dog])
    assert metrics.lca_height(label, label, tree).item() == 0
    assert metrics.lca_height(label, other, tree).item() == 2
    assert metrics.edge_distance(label, other, tree).item() == 2
    assert metrics.sibling_accuracy(label, other, tree).item() == 1
    node = torch.tensor([tree.index("animal")])
    assert metrics.coverage(node, other, tree, pred_space="nodes").item() == 1
    assert metrics.coverage(label, other, tree).item() == 0
    assert metrics.accuracy(node, label, tree, pred_space="nodes").item() == 0


def test_sums_of_batches_not_means() -> None:
    """The mean over batches would be wrong, since batches have different numbers of mistakes."""
    tree = hace.Hierarchy.from_paths(["a/b", "a/c", "d/e"])
    pred, target = torch.tensor([0, 0, 0, 0]), torch.tensor([1, 0, 1, 2])
    halves = [(pred[:2], target[:2]), (pred[2:], target[2:])]
    means = [metrics.mistake_severity(*half, tree).item() for half in halves]
    assert metrics.mistake_severity(pred, target, tree).item() == pytest.approx(4 / 3)
    assert np.mean(means) == 1.25


def test_deep_and_wide_without_recursion() -> None:
    tree = hierarchy_of(trees.caterpillar(3_000))
    last = tree.num_classes - 1
    assert metrics.lca_height(torch.tensor([0]), torch.tensor([last]), tree).item() == 3_000


ONE, TWO = torch.tensor([1]), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: metrics.lca_height(ONE, TWO, t), ValueError, "one shape"),
        (lambda t: metrics.accuracy(ONE, TWO, t), ValueError, "one shape"),
        (lambda t: metrics.lca_height(ONE.float(), ONE, t), TypeError, "pred must hold integers"),
        (lambda t: metrics.lca_height(ONE, ONE - 101, t), IndexError, "target holds -100"),
        (lambda t: metrics.lca_height(ONE + 4, ONE, t), IndexError, "pred holds 5, outside 0 to 4"),
        (lambda t: metrics.accuracy(ONE, ONE - 2, t), IndexError, "target holds -1"),
        (lambda t: metrics.accuracy(ONE - 2, ONE, t), IndexError, "pred holds -1"),
        (
            lambda t: metrics.accuracy(ONE - 3, ONE, t, pred_space="nodes"),
            IndexError,
            "pred holds -2",
        ),
        (lambda t: metrics.lca_height(ONE, ONE, t, target_space="leaves"), ValueError, "leaves"),
        (lambda t: metrics.lca_height(ONE, ONE, t, pred_space="leaves"), ValueError, "leaves"),
        (lambda t: metrics.level_accuracy(ONE, ONE, t, 2), ValueError, "level = 2"),
        (
            lambda t: metrics.mean_distance(ONE, ONE, t, distance="width"),
            ValueError,
            "distance must be 'height', 'depth' or 'hops', got 'width'",
        ),
        (
            lambda t: metrics.hierarchical_f1(ONE, ONE, t, average="none"),
            ValueError,
            "average must be 'micro' or 'macro', got 'none'",
        ),
        (lambda t: metrics.accuracy(ONE, ONE, t, ignore_index=0.5), TypeError, "ignore_index"),
        (lambda t: metrics.accuracy(ONE, ONE, [-1, 0]), TypeError, "hace.Hierarchy"),
    ],
)
def test_errors_name_the_value(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call(hierarchy_of(trees.flat(5)))
    assert message in str(caught.value)


@pytest.mark.parametrize("metric", [metrics.level_accuracies, metrics.sibling_accuracy])
def test_what_a_dag_does_not_have(metric: Any, rng: np.random.Generator) -> None:
    dag = hierarchy_of(DAGS["diamond"](rng))
    with pytest.raises(ValueError, match="needs a tree"):
        metric(ONE, ONE, dag)
