"""The metrics against the same words said slowly: walks up `Hierarchy.path`, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from tree_cases import hierarchy_of
from trees import Tree, caterpillar, chain, flat, random_tree

import hace
from hace import metrics

ROWS = 60


def heights(h: hace.Hierarchy) -> list[int]:
    height = [0] * h.num_nodes
    for node in range(h.num_nodes):
        for above, ancestor in enumerate(h.path(node)):
            height[ancestor] = max(height[ancestor], above)
    return height


def slow_lca_height(h: hace.Hierarchy, a: int, b: int) -> int:
    common = [node for node in h.path(a) if node in set(h.path(b))]
    return heights(h)[common[0]] if common else 1 + max(heights(h))


def at_level(h: hace.Hierarchy, node: int, level: int) -> int:
    path = [int(v) for v in h.path(node)][::-1]
    return path[min(level, len(path) - 1)]


def parent(h: hace.Hierarchy, node: int) -> int:
    return int(h.parents[node])


TREES: dict[str, Callable[[np.random.Generator], Tree]] = {
    "tree": lambda rng: random_tree(rng, 30, shuffle=True),
    "forest": lambda rng: random_tree(rng, 30, roots=4),
    "inner classes": lambda rng: random_tree(rng, 20, roots=2, inner=0.5, shuffle=True),
    "caterpillar": lambda rng: caterpillar(12),
    "chain": lambda rng: chain(6),
    "flat": lambda rng: flat(7, rooted=False),
    "flat under a root": lambda rng: flat(7),
}


@pytest.fixture(params=TREES, ids=str)
def hierarchy(request: pytest.FixtureRequest, rng: np.random.Generator) -> hace.Hierarchy:
    return hierarchy_of(TREES[request.param](rng))


@pytest.fixture(params=["classes", "nodes"])
def rows(
    request: pytest.FixtureRequest, hierarchy: hace.Hierarchy, rng: np.random.Generator
) -> tuple[Tensor, Tensor, list[tuple[int, int]], str]:
    """Predictions and targets, the same as pairs of nodes, and the space of the labels."""
    space: str = request.param
    size = hierarchy.num_classes if space == "classes" else hierarchy.num_nodes
    pred, target = torch.from_numpy(rng.integers(0, size, (2, ROWS)))
    pred[::5] = target[::5]
    node_of = hierarchy.classes if space == "classes" else np.arange(size)
    pairs = [(int(node_of[p]), int(node_of[t])) for p, t in zip(pred, target, strict=True)]
    return pred, target, pairs, space


def test_lca_height(hierarchy, rows):
    pred, target, pairs, space = rows
    expected = [slow_lca_height(hierarchy, a, b) for a, b in pairs]
    assert metrics.lca_height(pred, target, hierarchy, targets=space).tolist() == expected


def test_mistake_severity(hierarchy, rows):
    pred, target, pairs, space = rows
    wrong = [slow_lca_height(hierarchy, a, b) for a, b in pairs if a != b]
    expected = sum(wrong) / len(wrong) if wrong else math.nan
    severity = metrics.mistake_severity(pred, target, hierarchy, targets=space)
    assert severity.item() == pytest.approx(expected, nan_ok=True)


def test_level_accuracy(hierarchy, rows):
    pred, target, pairs, space = rows
    expected = [
        sum(at_level(hierarchy, a, level) == at_level(hierarchy, b, level) for a, b in pairs) / ROWS
        for level in range(hierarchy.depth + 1)
    ]
    every = metrics.level_accuracies(pred, target, hierarchy, targets=space)
    assert every.tolist() == pytest.approx(expected)
    for level, accuracy in enumerate(expected):
        one = metrics.level_accuracy(pred, target, hierarchy, level, targets=space)
        assert one.item() == pytest.approx(accuracy)


def test_accuracy_at_the_deepest_level_is_plain_accuracy(hierarchy, rows):
    pred, target, _, space = rows
    deepest = metrics.level_accuracies(pred, target, hierarchy, targets=space)[-1]
    torch.testing.assert_close(deepest, (pred == target).float().mean())


def test_sibling_accuracy(hierarchy, rows):
    pred, target, pairs, space = rows
    expected = sum(parent(hierarchy, a) == parent(hierarchy, b) for a, b in pairs) / ROWS
    accuracy = metrics.sibling_accuracy(pred, target, hierarchy, targets=space)
    assert accuracy.item() == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy(k):
    logits = torch.randn(200, 5)
    target = torch.randint(5, (200,))
    better = (logits > logits.gather(1, target[:, None])).sum(1)
    torch.testing.assert_close(
        metrics.top_k_accuracy(logits, target, k), (better < k).float().mean()
    )


def test_worked_example():
    tree = hace.Hierarchy.from_paths(["animal/dog/husky", "animal/cat/siamese", "vehicle/car"])
    husky, siamese, car = range(3)
    pred = torch.tensor([husky, siamese, car, husky])
    target = torch.tensor([husky, husky, husky, car])
    assert metrics.lca_height(pred, target, tree).tolist() == [0, 2, 3, 3]
    assert metrics.mistake_severity(pred, target, tree).item() == pytest.approx(8 / 3)
    assert metrics.level_accuracies(pred, target, tree).tolist() == [0.5, 0.25, 0.25]
    assert metrics.sibling_accuracy(pred, target, tree).item() == 0.25


def test_any_shape_and_integer_dtype():
    tree = hierarchy_of(caterpillar(5))
    pred, target = torch.randint(tree.num_classes, (2, 3, 4, 5))
    flat_heights = metrics.lca_height(pred.flatten(), target.flatten(), tree)
    narrow = metrics.lca_height(pred.to(torch.int32), target.to(torch.uint8), tree)
    assert torch.equal(narrow, flat_heights.view(3, 4, 5))


def test_nothing_to_measure_is_nan():
    tree = hierarchy_of(flat(3))
    none = torch.empty(0, dtype=torch.long)
    assert metrics.mistake_severity(torch.tensor([1]), torch.tensor([1]), tree).isnan()
    assert metrics.mistake_severity(none, none, tree).isnan()
    assert metrics.level_accuracies(none, none, tree).isnan().all()
    assert metrics.sibling_accuracy(none, none, tree).isnan()
    assert metrics.top_k_accuracy(torch.empty(0, 3), none).isnan()


def test_deep_and_wide_without_recursion():
    tree = hierarchy_of(caterpillar(3_000))
    last = tree.num_classes - 1
    assert metrics.lca_height(torch.tensor([0]), torch.tensor([last]), tree).item() == 3_000


ONE, TWO = torch.tensor([1]), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: metrics.lca_height(ONE, TWO, t), ValueError, "one shape"),
        (lambda t: metrics.lca_height(ONE.float(), ONE, t), TypeError, "pred must hold integers"),
        (lambda t: metrics.lca_height(ONE, ONE - 101, t), IndexError, "target holds -100"),
        (lambda t: metrics.lca_height(ONE + 4, ONE, t), IndexError, "pred holds 5, outside 0 to 4"),
        (lambda t: metrics.lca_height(ONE, ONE, t, targets="leaves"), ValueError, "leaves"),
        (lambda t: metrics.level_accuracy(ONE, ONE, t, 2), ValueError, "level = 2"),
        (lambda t: metrics.top_k_accuracy(torch.zeros(1, 5), ONE, 6), ValueError, "k = 6"),
        (lambda t: metrics.top_k_accuracy(torch.zeros(2, 5), ONE), ValueError, "(2, 5)"),
        (lambda t: metrics.top_k_accuracy(torch.zeros(1, 5), ONE + 4), IndexError, "holds 5"),
    ],
)
def test_errors_name_the_value(call, error, message):
    with pytest.raises(error) as caught:
        call(hierarchy_of(flat(5)))
    assert message in str(caught.value)
