"""Metrics of logits agree with their definitions, computed slowly, row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import trees
from answers_oracle import Picture, Point, hierarchy_of, softmax
from shapes import DAGS, TREES
from torch import Tensor

import hace
from hace import metrics

ROWS = 40


@dataclass(frozen=True)
class Case:
    """Logits and truths, the truths also as points, and probabilities as one dictionary per row."""

    hierarchy: hace.Hierarchy
    picture: Picture
    logits: Tensor
    target: Tensor
    truths: list[Point]
    keywords: dict[str, Any]

    @property
    def args(self) -> tuple[Tensor, Tensor, hace.Hierarchy]:
        return self.logits, self.target, self.hierarchy

    def ranked(self, k: int) -> list[list[Point]]:
        """The points of the k most probable classes per row."""
        best = self.logits.numpy().argsort(1)[:, ::-1][:, :k].tolist()
        return [[self.picture.of_class[label] for label in row] for row in best]

    def probabilities(self) -> list[dict[Point, float]]:
        return [self.picture.probabilities(softmax(row)) for row in self.logits.tolist()]


def case_of(shape: Any, target_space: str, rng: np.random.Generator) -> Case:
    hierarchy, picture = hierarchy_of(shape), Picture(shape)
    size = hierarchy.num_classes if target_space == "classes" else hierarchy.num_nodes
    logits = torch.from_numpy(2 * rng.standard_normal((ROWS, hierarchy.num_classes)))
    target = rng.integers(0, size, ROWS)
    truths = [picture.of(t, target_space) for t in target.tolist()]
    keywords = {} if target_space == "classes" else {"target_space": "nodes"}
    return Case(hierarchy, picture, logits, torch.from_numpy(target), truths, keywords)


@pytest.fixture(params=["classes", "nodes"])
def target_space(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[*TREES, *(f"DAG: {name}" for name in DAGS)])
def case(request: pytest.FixtureRequest, target_space: str, rng: np.random.Generator) -> Case:
    shape = DAGS[request.param[5:]] if request.param[:3] == "DAG" else TREES[request.param]
    return case_of(shape(rng), target_space, rng)


@pytest.fixture(params=TREES)
def tree_case(request: pytest.FixtureRequest, target_space: str, rng: np.random.Generator) -> Case:
    return case_of(TREES[request.param](rng), target_space, rng)


@pytest.mark.parametrize("k", [1, 3])
def test_rankings(case: Case, k: int) -> None:
    k = min(k, case.hierarchy.num_classes)
    p, ranked = case.picture, case.ranked(k)
    hits = [
        any(truth in p.above(answer) for answer in answers)
        for answers, truth in zip(ranked, case.truths, strict=True)
    ]
    found = metrics.top_k_accuracy(*case.args, k, **case.keywords)
    assert found.item() == pytest.approx(np.mean(hits))
    for kind in ("height", "depth", "hops"):
        far = [
            [p.distance(answer, truth, kind) for answer in answers]
            for answers, truth in zip(ranked, case.truths, strict=True)
        ]
        found = metrics.distance_at_k(*case.args, k, distance=kind, **case.keywords)
        assert found.item() == pytest.approx(np.mean(far))
        found = metrics.best_distance_at_k(*case.args, k, distance=kind, **case.keywords)
        assert found.item() == pytest.approx(np.mean(np.min(far, axis=1)))


@pytest.mark.parametrize("bins", [1, 10])
def test_calibration(tree_case: Case, bins: int) -> None:
    """The calibration error of each level: confidence against accuracy of the answers in bins."""
    p = tree_case.picture
    expected = []
    for level in range(tree_case.hierarchy.depth + 1):
        answers: dict[int, list[tuple[float, bool]]] = {}
        for row, truth in zip(tree_case.probabilities(), tree_case.truths, strict=True):
            truth = p.at_level(truth, level)
            if truth not in p.level(level):
                continue  # the target is coarser than the level
            best = max(p.level(level), key=lambda point: row[point])
            place = min(max(math.ceil(row[best] * bins - 1e-12) - 1, 0), bins - 1)
            answers.setdefault(place, []).append((row[best], best == truth))
        count = sum(map(len, answers.values()))
        gaps = [abs(sum(c - right for c, right in rows)) for rows in answers.values()]
        expected.append(sum(gaps) / count if count else math.nan)
    found = metrics.level_calibration_error(*tree_case.args, bins=bins, **tree_case.keywords)
    assert found.tolist() == pytest.approx(expected, nan_ok=True, abs=1e-6)


@pytest.mark.parametrize("specificity", ["information", "depth"])
def test_operating_curve(case: Case, specificity: str) -> None:
    """Between its thresholds, answers are the most specific nodes that are probable enough."""
    p = case.picture
    curve = metrics.operating_curve(*case.args, specificity=specificity, **case.keywords)

    def says(node: Point) -> float:
        if node == "top":
            return 0
        if specificity == "depth":
            return p.depths[node] + (len(p.roots) > 1)
        return math.log2(case.hierarchy.num_classes / len(p.below(node)))

    nodes = [node for node in p.nodes if p.below(node)]
    if specificity == "information":  # only the lowest of nodes with the same classes
        nodes = [
            node
            for node in nodes
            if all(
                p.below(child) != p.below(node) or child not in p.nodes
                for child in p.children[node]
            )
        ]
    most = max(map(says, nodes))
    rows = case.probabilities()
    thresholds = curve.threshold.double().tolist()
    assert thresholds[0] == math.inf
    ends = [*thresholds[1:], 0.0]
    ranges = [(min(above, 1.0), below) for above, below in zip(thresholds, ends, strict=True)]
    between = [(above + below) / 2 for above, below in ranges]
    picked = [i for i, (above, below) in enumerate(ranges) if above - below > 1e-4]
    assert picked
    for i in picked[:: max(1, len(picked) // 8)]:
        answers: list[Point] = [
            max(
                (node for node in nodes if row[node] >= between[i]),
                key=lambda node: (says(node), row[node]),
                default="top",
            )
            for row in rows
        ]
        right = [
            a in p.above(t) or t in p.above(a) for a, t in zip(answers, case.truths, strict=True)
        ]
        assert curve.accuracy[i].item() == pytest.approx(np.mean(right))
        expected = np.mean([says(a) for a in answers]) / most if most else 0
        assert curve.information[i].item() == pytest.approx(expected, abs=1e-6)
    if most:
        assert curve.information[-1].item() == pytest.approx(1)
    area = curve.area().item()
    right, told = curve.accuracy.double().numpy(), curve.information.double().numpy()
    expected = np.sum((right[1:] + right[:-1]) / 2 * np.diff(told))
    assert area == pytest.approx(expected if most else curve.accuracy[-1].item(), abs=1e-6)


REDUCED = [
    metrics.best_distance_at_k,
    metrics.distance_at_k,
    metrics.level_calibration_error,
    metrics.top_k_accuracy,
    lambda *args, **keywords: metrics.operating_curve(*args, **keywords).area(),
]
NAMES = ["best distance", "distance", "calibration", "top k", "operating curve"]


@pytest.mark.parametrize("metric", REDUCED, ids=NAMES)
@pytest.mark.parametrize("logit_space", ["classes", "depth_first", "nodes"])
def test_shapes_and_ignored_rows(metric: Any, logit_space: str, rng: np.random.Generator) -> None:
    """Accepts (C), (N, C, d1, d2), ignored rows, other column orders, and logits of all nodes."""
    tree = hierarchy_of(trees.random_tree(rng, 20, roots=2, inner=0.5, shuffle=True))
    logits = torch.randn(24, tree.num_classes)
    target = torch.randint(tree.num_classes, (24,))
    expected = metric(logits[4:], target[4:], tree)
    columns = logits
    if logit_space == "depth_first":
        columns = logits[:, tree.depth_first_classes.copy()]
    elif logit_space == "nodes":
        columns = torch.full((24, tree.num_nodes), -torch.inf)
        columns[:, tree.classes.copy()] = logits
    ignored = target.clone()
    ignored[:4] = -100
    image = columns.view(2, 3, 4, -1).movedim(-1, 1)
    found = metric(image, ignored.view(2, 3, 4), tree, logit_space=logit_space)
    torch.testing.assert_close(found, expected, equal_nan=True)
    one = metric(columns[5], target[5], tree, logit_space=logit_space)
    same = metric(columns[5:6], target[5:6], tree, logit_space=logit_space)
    torch.testing.assert_close(one, same, equal_nan=True)
    target[:4] = 77
    found = metric(columns, target, tree, logit_space=logit_space, ignore_index=77)
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("metric", REDUCED, ids=NAMES)
def test_no_rows_is_nan(metric: Any) -> None:
    tree = hierarchy_of(trees.balanced([2, 2]))
    assert metric(torch.empty(0, 4), torch.empty(0, dtype=torch.long), tree).isnan().all()


@pytest.mark.parametrize("metric", REDUCED, ids=NAMES)
def test_chunks_of_rows_add_up(
    metric: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Large inputs, which are processed a few rows at a time, give the same figures."""
    tree = hierarchy_of(TREES["inner classes"](rng))
    logits, target = torch.randn(50, tree.num_classes), torch.randint(tree.num_classes, (50,))
    whole = metric(logits, target, tree)
    monkeypatch.setattr("hace.answers.rows._CHUNK", 1)
    torch.testing.assert_close(metric(logits, target, tree), whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype: torch.dtype, rng: np.random.Generator) -> None:
    tree = hierarchy_of(TREES["inner classes"](rng))
    logits = torch.randn(50, tree.num_classes).to(dtype)
    target = torch.randint(tree.num_classes, (50,))
    for metric in REDUCED:
        found = metric(logits, target, tree)
        expected = metric(logits.float(), target, tree)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_perfect_and_a_blind_model() -> None:
    tree = hierarchy_of(trees.balanced([4, 4]))
    target = torch.arange(16)
    perfect = 50 * torch.eye(16)
    assert metrics.operating_curve(perfect, target, tree).area().item() == pytest.approx(1)
    assert metrics.level_calibration_error(perfect, target, tree).tolist() == pytest.approx([0, 0])
    wrong = perfect.roll(4, 1)
    assert metrics.operating_curve(wrong, target, tree).area().item() == pytest.approx(0.5)
    assert metrics.level_calibration_error(wrong, target, tree).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y, t: metrics.top_k_accuracy(x, y, t, 6), ValueError, "k = 6"),
        (lambda x, y, t: metrics.top_k_accuracy(x, y, t, 0), ValueError, "k = 0"),
        (lambda x, y, t: metrics.top_k_accuracy(x, y[:1], t), ValueError, "(2,) indices"),
        (lambda x, y, t: metrics.top_k_accuracy(x[:, :4], y, t), ValueError, "C = 5"),
        (lambda x, y, t: metrics.top_k_accuracy(x, y + 4, t), IndexError, "holds 5"),
        (lambda x, y, t: metrics.top_k_accuracy(x, y.float(), t), TypeError, "integers"),
        (lambda x, y, t: metrics.top_k_accuracy(x.long(), y, t), TypeError, "floating-point"),
        (lambda x, y, t: metrics.top_k_accuracy(x, y, t, logit_space="no"), ValueError, "no"),
        (lambda x, y, t: metrics.distance_at_k(x, y, t, distance="no"), ValueError, "'no'"),
        (lambda x, y, t: metrics.operating_curve(x, y, t, specificity="no"), ValueError, "'no'"),
        (lambda x, y, t: metrics.reliability(x, y, t, bins=0), ValueError, "bins"),
    ],
)
def test_errors_name_the_value(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call(torch.zeros(2, 5), torch.tensor([0, 1]), hierarchy_of(trees.flat(5)))
    assert message in str(caught.value)
