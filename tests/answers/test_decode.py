"""Decisions agree with their definitions, computed slowly by sums over all classes, row by row."""

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
from hace import decode, metrics
from hace.spaces import num_targets

ROWS = 30


@dataclass(frozen=True)
class Case:
    """Logits, and the probabilities of all points as one dictionary per row."""

    hierarchy: hace.Hierarchy
    picture: Picture
    logits: Tensor
    rows: list[dict[Point, float]]

    def says(self, node: Point, specificity: str) -> float:
        p = self.picture
        if node == "top":
            return 0
        if specificity == "depth":
            return p.depths[node] + (len(p.roots) > 1)
        return math.log2(self.hierarchy.num_classes / len(p.below(node)))

    def answers(self, specificity: str) -> list[Point]:
        """The nodes with classes; by information, only the lowest of nodes with equal classes."""
        p = self.picture
        nodes = [node for node in p.nodes if p.below(node)]
        if specificity == "depth":
            return nodes
        return [
            node
            for node in nodes
            if not any(p.below(child) == p.below(node) for child in p.children[node])
            or not any(child in p.nodes for child in p.children[node])
        ]

    @property
    def nothing(self) -> int:
        """The node id that stands for an answer that says nothing."""
        roots = self.picture.roots
        return int(roots[0]) if len(roots) == 1 else -1


def case_of(shape: Any, rng: np.random.Generator) -> Case:
    hierarchy, picture = hierarchy_of(shape), Picture(shape)
    logits = torch.from_numpy(1.5 * rng.standard_normal((ROWS, hierarchy.num_classes)))
    rows = [picture.probabilities(softmax(row)) for row in logits.tolist()]
    return Case(hierarchy, picture, logits, rows)


@pytest.fixture(params=[*TREES, *(f"DAG: {name}" for name in DAGS)])
def case(request: pytest.FixtureRequest, rng: np.random.Generator) -> Case:
    shape = DAGS[request.param[5:]] if request.param[:3] == "DAG" else TREES[request.param]
    return case_of(shape(rng), rng)


@pytest.fixture(params=TREES)
def tree_case(request: pytest.FixtureRequest, rng: np.random.Generator) -> Case:
    return case_of(TREES[request.param](rng), rng)


@pytest.mark.parametrize("space", ["classes", "nodes"])
@pytest.mark.parametrize("cost", ["height", "depth", "hops"])
def test_expected_cost(tree_case: Case, cost: str, space: str) -> None:
    """An answer's expected cost sums its distance from each class times the probability."""
    p, size = tree_case.picture, num_targets(tree_case.hierarchy, space)
    answers = [p.of(index, space) for index in range(size)]
    costs = np.array([[p.distance(a, y, cost) for y in p.of_class] for a in answers])
    if space == "nodes" and cost == "height":  # a right node costs what it leaves open
        above = [[a in p.above(y) for y in p.of_class] for a in answers]
        costs = np.where(above, [[p.heights[a]] for a in answers], costs)
    expected = np.array([softmax(row) for row in tree_case.logits.tolist()]) @ costs.T
    found = decode.expected_cost(
        tree_case.logits, tree_case.hierarchy, cost=cost, target_space=space
    )
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-9, atol=1e-9)
    chosen = decode.minimum_expected_cost(
        tree_case.logits, tree_case.hierarchy, cost=cost, target_space=space
    )
    of_chosen = np.take_along_axis(expected, chosen.numpy()[:, None], 1)[:, 0]
    np.testing.assert_allclose(of_chosen.astype(float), expected.min(1).astype(float), atol=1e-9)


def test_least_cost_is_not_the_most_probable_class() -> None:
    """One of three siblings that share most of the mass beats a class without siblings."""
    tree = hace.Hierarchy.from_paths(["a/1", "a/2", "a/3", "b/4"])
    logits = torch.tensor([0.22, 0.21, 0.20, 0.37]).log()
    assert hace.predict(logits, tree).item() == 3
    assert decode.minimum_expected_cost(logits, tree).item() == 0
    assert decode.minimum_expected_cost(logits, tree, cost="hops", target_space="nodes") == 4


def test_cost_with_a_logit_for_each_node(rng: np.random.Generator) -> None:
    """If a node is not a class, its own logit is mass at the node itself."""
    shape = trees.random_tree(rng, 15, roots=2, inner=0.4, shuffle=True)
    hierarchy, picture = hierarchy_of(shape), Picture(shape)
    logits = torch.from_numpy(rng.standard_normal((9, hierarchy.num_nodes)))
    truth = np.array([softmax(row) for row in logits.tolist()])
    label = {node: c for c, node in enumerate(hierarchy.classes.tolist())}
    truths = [picture.of_class[label[v]] if v in label else v for v in picture.nodes]
    for cost in ("height", "depth", "hops"):
        far = [[picture.distance(a, y, cost) for y in truths] for a in picture.of_class]
        found = decode.expected_cost(logits, hierarchy, cost=cost, logit_space="nodes")
        expected = (truth @ np.array(far).T).astype(float)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_greedy(case: Case) -> None:
    p = case.picture
    expected = []
    for row in case.rows:
        at: Point = "top"
        while p.children[at]:
            below = [child for child in p.children[at] if p.below(child)]
            at = max(below, key=lambda child: row[child])
        expected.append(at)
    found = decode.top_down_greedy(case.logits, case.hierarchy)
    assert [p.of_class[label] for label in found.tolist()] == expected
    nodes = decode.top_down_greedy(case.logits, case.hierarchy, target_space="nodes")
    assert nodes.tolist() == [p.node(point) for point in expected]


@pytest.mark.parametrize("specificity", ["depth", "information"])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.5])
def test_deepest_node(case: Case, threshold: float, specificity: str) -> None:
    found = decode.deepest_node(case.logits, case.hierarchy, threshold, specificity=specificity)
    for node, row in zip(found.tolist(), case.rows, strict=True):
        enough = [v for v in case.answers(specificity) if row[v] >= threshold]
        if not enough:
            assert node == case.nothing
            continue
        best = max(enough, key=lambda v: (case.says(v, specificity), row[v]))
        assert case.says(node, specificity) == case.says(best, specificity)
        assert row[node] == pytest.approx(row[best])
        assert node in enough


def test_majority_subtree(case: Case) -> None:
    p = case.picture
    found = decode.majority_subtree(case.logits, case.hierarchy)
    for node, row in zip(found.tolist(), case.rows, strict=True):
        more = [v for v in p.nodes if row[v] > 0.5]
        if not more:
            assert node == -1
            continue
        fewest = min(len(p.below(v)) for v in more)
        assert len(p.below(node)) == fewest
        assert row[node] == pytest.approx(max(row[v] for v in more if len(p.below(v)) == fewest))


@pytest.mark.parametrize("specificity", ["depth", "information"])
@pytest.mark.parametrize("bonus", [0.0, 1.0, 20.0])
def test_expected_information(case: Case, bonus: float, specificity: str) -> None:
    found = decode.expected_information(case.logits, case.hierarchy, bonus, specificity=specificity)
    for node, row in zip(found.tolist(), case.rows, strict=True):
        row = {**row, "top": 1.0}
        answers: list[Point] = ["top", *case.answers(specificity)]
        scores = {v: row[v] * (case.says(v, specificity) + bonus) for v in answers}
        chosen: Point = "top" if node == -1 else node
        if node == case.nothing:  # the only root says as much as no answer
            scores[chosen] = bonus
        assert scores[chosen] == pytest.approx(max(scores.values()))


@pytest.mark.parametrize("specificity", ["depth", "information"])
def test_pareto_nodes(case: Case, specificity: str) -> None:
    found = decode.pareto_nodes(case.logits, case.hierarchy, specificity=specificity)
    assert len(found.ptr) == ROWS + 1
    for i, row in enumerate(case.rows):
        of_row = slice(int(found.ptr[i]), int(found.ptr[i + 1]))
        nodes = found.node[of_row].tolist()
        answers = case.answers(specificity)
        assert set(nodes) <= set(answers)
        says = {v: case.says(v, specificity) for v in answers}
        # A tiny difference in probability is due to rounding.
        beaten = [
            v
            for v in answers
            if any(
                (row[u] > row[v] + 1e-12 and says[u] >= says[v])
                or (row[u] >= row[v] - 1e-12 and says[u] > says[v])
                for u in answers
            )
        ]
        unbeaten = {(round(says[v], 9), round(row[v], 9)) for v in answers if v not in beaten}
        kept = [(round(says[v], 9), round(row[v], 9)) for v in nodes]
        assert set(kept) >= unbeaten
        assert kept == sorted(kept)
        assert found.probability[of_row].tolist() == pytest.approx([row[v] for v in nodes])


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_per_level(tree_case: Case, k: int) -> None:
    p = tree_case.picture
    found = decode.top_k_per_level(tree_case.logits, tree_case.hierarchy, k)
    assert found.node.shape == (ROWS, tree_case.hierarchy.depth + 1, k)
    for i, row in enumerate(tree_case.rows):
        for level in range(tree_case.hierarchy.depth + 1):
            answers = [point for point in p.level(level) if p.below(point)]
            best = sorted(answers, key=lambda point: -row[point])[:k]
            missing = k - len(best)
            told = [p.node(point) for point in best] + [-1] * missing
            assert found.node[i, level].tolist() == told
            probabilities = [row[point] for point in best] + [0.0] * missing
            assert found.probability[i, level].tolist() == pytest.approx(probabilities)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 0.999, math.inf])
def test_conformal_node(tree_case: Case, threshold: float) -> None:
    """It is the first node above the threshold on the way up from the most probable class."""
    p = tree_case.picture
    found = decode.conformal_node(tree_case.logits, tree_case.hierarchy, threshold)
    best = hace.predict(tree_case.logits, tree_case.hierarchy)
    for node, label, row in zip(found.tolist(), best.tolist(), tree_case.rows, strict=True):
        at = tree_case.hierarchy.classes[label]
        path = tree_case.hierarchy.path(int(at))
        enough = [v for v in path if row[v] > threshold]
        assert node == (enough[0] if enough else tree_case.nothing)
        assert p.node(p.of_class[label]) in path


@pytest.mark.parametrize("target_space", ["classes", "nodes"])
def test_conformal_threshold_on_its_own_rows(tree_case: Case, target_space: str) -> None:
    """It covers as many rows as were asked for, and any lower threshold covers fewer."""
    h = tree_case.hierarchy
    target = torch.randint(num_targets(h, target_space), (ROWS,))
    place = math.ceil((ROWS + 1) * 0.8)
    threshold = decode.conformal_threshold(
        tree_case.logits, target, h, 0.8, target_space=target_space
    )

    def covered(threshold: float) -> int:
        node = decode.conformal_node(tree_case.logits, h, threshold)
        spaces = {"pred_space": "nodes", "target_space": target_space}
        return round(metrics.coverage(node, target, h, **spaces).item() * ROWS)

    assert covered(threshold) >= place
    if threshold > 0:
        assert covered(math.nextafter(threshold, 0)) < place
    assert decode.conformal_threshold(
        tree_case.logits[:3], target[:3], h, 0.9, target_space=target_space
    ) == (math.inf)


@pytest.mark.parametrize("shape", ["forest", "inner classes under a root"])
def test_conformal_coverage(shape: str, rng: np.random.Generator) -> None:
    """A threshold from 39 held-out rows covers 100 other rows as promised, in the mean of 80 draws.

    The model is wrong: truths are not drawn from its probabilities, but from sharper and shifted
    ones.
    """
    hierarchy = hierarchy_of(TREES[shape](rng))
    held_out, others, trials, wanted = 39, 100, 80, 0.8
    shares = []
    for _ in range(trials):
        logits = 1.5 * torch.randn(held_out + others, hierarchy.num_classes)
        truth_logits = 0.7 * logits + 0.8 * torch.randn_like(logits)
        target = torch.distributions.Categorical(logits=truth_logits).sample()
        threshold = decode.conformal_threshold(
            logits[:held_out], target[:held_out], hierarchy, wanted
        )
        node = decode.conformal_node(logits[held_out:], hierarchy, threshold)
        right = metrics.coverage(node, target[held_out:], hierarchy, pred_space="nodes")
        shares.append(right.item())
    standard_error = np.std(shares) / math.sqrt(trials)
    assert np.mean(shares) >= wanted - 3 * standard_error
    # And answers do not say less than needed: without equal scores, the coverage is
    # ⌈(n + 1) · wanted⌉ / (n + 1).
    assert np.mean(shares) <= wanted + 1 / (held_out + 1) + 3 * standard_error
    assert standard_error < 0.01


@pytest.mark.parametrize("specificity", ["depth", "information"])
@pytest.mark.parametrize("wanted", [0.0, 0.6, 1.0])
def test_calibrated_threshold(case: Case, wanted: float, specificity: str) -> None:
    """Answers are accurate enough at this threshold and above, but not always below it."""
    target_space = "nodes" if wanted == 0.6 else "classes"
    h, spaces = case.hierarchy, {"pred_space": "nodes", "target_space": target_space}
    target = torch.randint(num_targets(h, target_space), (ROWS,))
    threshold = decode.calibrate_threshold(
        case.logits, target, h, wanted, specificity=specificity, target_space=target_space
    )

    def accuracy(threshold: float) -> float:
        node = decode.deepest_node(case.logits, h, threshold, specificity=specificity)
        return metrics.ancestor_or_descendant_accuracy(node, target, h, **spaces).item()

    assert accuracy(threshold) >= wanted - 1e-6
    higher = np.linspace(threshold, 1, 8) if threshold < 1 else [threshold]
    assert min(map(accuracy, higher)) >= wanted - 1e-6
    lower = [p for row in case.rows for p in row.values() if p < threshold - 1e-9]
    if lower and threshold < 1:
        assert threshold > 0
        next_lower = max(lower) - 1e-9
        assert accuracy(next_lower) < wanted or accuracy(next_lower) == accuracy(threshold)


@pytest.mark.parametrize("wanted", [0.0, 0.6, 0.9, 1.0])
def test_calibrated_bonus(case: Case, wanted: float) -> None:
    h = case.hierarchy
    target = torch.randint(h.num_classes, (ROWS,))
    bonus = decode.calibrate_bonus(case.logits, target, h, wanted)

    def accuracy(bonus: float) -> float:
        node = decode.expected_information(case.logits, h, bonus)
        return metrics.coverage(node, target, h, pred_space="nodes").item()

    if bonus < 2.0**50:  # beyond that, only the root is accurate enough, and rounding decides
        assert accuracy(bonus) >= wanted - 1e-6
    if bonus > 0:
        least = (bonus - 1e-3) / (1 + 1e-3)
        assert accuracy(max(0.0, least - 1e-6)) < wanted or accuracy(0.0) < wanted


def test_a_calibrated_bonus_is_not_left_to_rounding() -> None:
    """At the least bonus two answers have the same value, and float32 chose either of them."""
    tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        logits = 2 * torch.randn(4, 3, generator=generator)
        target = torch.randint(3, (4,), generator=generator)
        bonus = decode.calibrate_bonus(logits, target, tree, 0.75)
        node = decode.expected_information(logits, tree, bonus)
        assert metrics.coverage(node, target, tree, pred_space="nodes").item() >= 0.75


def test_darts_says_most_for_its_accuracy() -> None:
    """With truths drawn from the model, no threshold with the same accuracy says more."""
    tree = hierarchy_of(trees.balanced([4, 4, 4]))
    logits = 2 * torch.randn(2_000, 64)
    target = torch.distributions.Categorical(logits=logits).sample()
    bonus = decode.calibrate_bonus(logits, target, tree, 0.8)
    threshold = decode.calibrate_threshold(logits, target, tree, 0.8, specificity="information")

    def said(node: Tensor) -> tuple[float, float]:
        right = metrics.coverage(node, target, tree, pred_space="nodes").item()
        depth = torch.tensor(tree.depths + 1)[node] * (node >= 0)
        return right, depth.double().mean().item()

    accuracy, information = said(decode.expected_information(logits, tree, bonus))
    _, of_threshold = said(decode.deepest_node(logits, tree, threshold, specificity="information"))
    assert accuracy == pytest.approx(0.8, abs=0.003)
    assert information > of_threshold


DECIDERS: dict[str, Any] = {
    "cost": decode.minimum_expected_cost,
    "expected cost": decode.expected_cost,
    "greedy": decode.top_down_greedy,
    "deepest": decode.deepest_node,
    "majority": decode.majority_subtree,
    "information": decode.expected_information,
    "conformal": lambda x, h, **keywords: decode.conformal_node(x, h, 0.7, **keywords),
    "levels": lambda x, h, **keywords: decode.top_k_per_level(x, h, 2, **keywords).node,
    "class": decode.most_probable,
}


def in_space(logits: Tensor, hierarchy: hace.Hierarchy, space: str) -> Tensor:
    if space == "depth_first":
        return logits[:, hierarchy.depth_first_classes.copy()]
    if space == "nodes":
        columns = torch.full((len(logits), hierarchy.num_nodes), -torch.inf)
        columns[:, hierarchy.classes.copy()] = logits
        return columns
    return logits


@pytest.mark.parametrize("logit_space", ["classes", "depth_first", "nodes"])
@pytest.mark.parametrize("name", [name for name in DECIDERS if name != "class"])
def test_shapes_and_spaces(name: str, logit_space: str, rng: np.random.Generator) -> None:
    """Accepts (C), (N, C), (N, C, d1, d2), no rows, other column orders and other dtypes."""
    tree = hierarchy_of(trees.random_tree(rng, 20, roots=2, inner=0.5, shuffle=True))
    decide = DECIDERS[name]
    logits = torch.randn(24, tree.num_classes).bfloat16().float()
    expected = decide(logits, tree)
    columns = in_space(logits, tree, logit_space)
    image = columns.view(2, 3, 4, -1).movedim(-1, 1)
    found = decide(image, tree, logit_space=logit_space)
    assert found.shape == (2, 3, 4, *expected.shape[1:])
    torch.testing.assert_close(found.flatten(0, 2), expected)
    one = decide(columns[5], tree, logit_space=logit_space)
    torch.testing.assert_close(one, expected[5])
    none = decide(columns[:0], tree, logit_space=logit_space)
    assert none.shape == (0, *expected.shape[1:])
    half = decide(columns.bfloat16(), tree, logit_space=logit_space)
    torch.testing.assert_close(half, expected)
    wide = decide(columns.double(), tree, logit_space=logit_space)
    torch.testing.assert_close(wide, expected, check_dtype=False, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in DECIDERS if name != "class"])
def test_chunks(name: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Large inputs, which are processed a few rows at a time, give the same answers."""
    tree = hierarchy_of(TREES["inner classes"](rng))
    logits = torch.randn(50, tree.num_classes)
    whole = DECIDERS[name](logits, tree)
    monkeypatch.setattr("hace.answers.rows._CHUNK", 1)
    torch.testing.assert_close(DECIDERS[name](logits, tree), whole)


@pytest.mark.parametrize("name", [name for name in DECIDERS if name != "class"])
def test_extreme_logits(name: str, rng: np.random.Generator) -> None:
    """Masked, far apart and equal logits give answers, and the input is unchanged."""
    tree = hierarchy_of(TREES["inner classes"](rng))
    logits = torch.randn(6, tree.num_classes)
    logits[0], logits[1] = -torch.inf, 1e4
    logits[0, 3] = 0
    logits[2] = 1e4 * logits[2]
    logits[3, ::2] = -torch.inf
    before = logits.clone().requires_grad_()
    found = DECIDERS[name](before, tree)
    assert torch.equal(before, logits)
    assert not found.requires_grad
    assert not found.isnan().any() if found.is_floating_point() else (found >= -1).all()
    if name not in ("levels", "expected cost"):
        size = tree.num_classes if name in ("cost", "greedy") else tree.num_nodes
        assert (found < size).all()


def test_one_certain_class(case: Case) -> None:
    """All decisions agree when one class is certain."""
    h, p = case.hierarchy, case.picture
    logits = torch.full((h.num_classes, h.num_classes), -torch.inf)
    logits.fill_diagonal_(0)
    labels = torch.arange(h.num_classes)
    assert torch.equal(decode.most_probable(logits, h), labels)
    assert torch.equal(decode.top_down_greedy(logits, h), labels)
    if h.is_tree:
        for cost in ("height", "depth", "hops"):
            assert torch.equal(decode.minimum_expected_cost(logits, h, cost=cost), labels)
    for label, node in enumerate(decode.deepest_node(logits, h, 1.0).tolist()):
        assert node == p.node(p.of_class[label])


def test_deep_trees() -> None:
    tree = hierarchy_of(trees.caterpillar(300))
    logits = torch.randn(3, tree.num_classes)
    logits[:, -1] = 20
    assert (decode.minimum_expected_cost(logits, tree) == tree.num_classes - 1).all()
    assert (decode.conformal_node(logits, tree, 0.5) == tree.num_nodes - 1).all()
    assert (decode.deepest_node(logits, tree) == tree.num_nodes - 1).all()
    assert (decode.top_down_greedy(logits, tree) == tree.num_classes - 1).all()


ANIMALS = ["animal/dog/husky", "animal/dog/beagle", "animal/cat/siamese", "vehicle/car"]


def test_explain() -> None:
    tree = hace.Hierarchy.from_paths(ANIMALS)
    (first, second) = decode.explain(torch.tensor([[2.0, 1.5, 0, 0], [1, 1, 1, 3.5]]), tree)
    assert [answer.name for answer in first.classes] == [ANIMALS[0], ANIMALS[1], ANIMALS[3]] or [
        answer.name for answer in first.classes
    ] == ANIMALS[:3]
    probability = float(softmax([2.0, 1.5, 0, 0])[0])
    assert first.classes[0].probability == pytest.approx(probability)
    assert first.majority.name == ANIMALS[0]
    assert [answer.name for answer in first.levels[0]] == ["animal", "vehicle"]
    text = str(second)
    assert "1. vehicle/car" in text
    assert "80 %" in text
    assert "more likely than not: vehicle/car (80 %)" in text
    assert len(decode.explain(torch.zeros(4), tree, k=9)[0].classes) == 4


def test_explain_without_names_and_on_dags(rng: np.random.Generator) -> None:
    dag = hierarchy_of(DAGS["two roots"](rng))
    (one,) = decode.explain(torch.randn(dag.num_classes), dag)
    assert one.levels == []
    assert one.classes[0].name == f"node {one.classes[0].node}"
    (nothing,) = decode.explain(torch.zeros(6), hierarchy_of(trees.flat(6, rooted=False)))
    assert nothing.majority == (-1, "anything", 1.0)


@pytest.mark.parametrize(
    "decide",
    [
        decode.minimum_expected_cost,
        decode.top_k_per_level,
        lambda x, h: decode.conformal_node(x, h, 0.5),
        lambda x, h: decode.conformal_threshold(x, torch.tensor([0, 1]), h),
    ],
)
def test_what_a_dag_does_not_have(decide: Any, rng: np.random.Generator) -> None:
    dag = hierarchy_of(DAGS["diamond"](rng))
    with pytest.raises(ValueError, match="needs a tree"):
        decide(torch.zeros(2, 2), dag)


X, Y = torch.zeros(2, 5), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: decode.minimum_expected_cost(X, t, cost="no"), ValueError, "'no'"),
        (lambda t: decode.minimum_expected_cost(X, t, target_space="no"), ValueError, "no"),
        (lambda t: decode.minimum_expected_cost(X[:, :4], t), ValueError, "C = 5"),
        (lambda t: decode.top_down_greedy(X, t, target_space="no"), ValueError, "no"),
        (lambda t: decode.top_down_greedy(X.long(), t), TypeError, "floating-point"),
        (lambda t: decode.deepest_node(X, t, -0.1), ValueError, "-0.1"),
        (lambda t: decode.deepest_node(X, t, math.nan), ValueError, "nan"),
        (lambda t: decode.deepest_node(X, t, "0.5"), TypeError, "not str"),
        (lambda t: decode.deepest_node(X, t, specificity="no"), ValueError, "'no'"),
        (lambda t: decode.deepest_node(X, [-1]), TypeError, "hace.Hierarchy"),
        (lambda t: decode.expected_information(X, t, -1), ValueError, "-1"),
        (lambda t: decode.expected_information(X, t, "1"), TypeError, "str"),
        (lambda t: decode.top_k_per_level(X, t, 0), ValueError, "got 0"),
        (lambda t: decode.explain(X, t, 0), ValueError, "got 0"),
        (lambda t: decode.conformal_threshold(X, Y, t, 1.0), ValueError, "1.0"),
        (lambda t: decode.conformal_threshold(X, Y + 4, t), IndexError, "5"),
        (lambda t: decode.calibrate_threshold(X, Y, t, 1.1), ValueError, "1.1"),
        (lambda t: decode.calibrate_threshold(X, Y - 100 - Y, t), ValueError, "no rows"),
        (lambda t: decode.calibrate_bonus(X, Y, t, -1), ValueError, "-1"),
    ],
)
def test_errors_name_the_value(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call(hierarchy_of(trees.flat(5)))
    assert message in str(caught.value)
