"""A class label means that class alone, even if the class is at an inner node.

Such a class counts as a leaf under its node, so every loss must equal that of the hierarchy in
which it really is such a leaf. A node id means the node's subtree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dags
import numpy as np
import pytest
import torch
import trees
from cases import evaluate
from tree_cases import hierarchy_of

import hace
from hace.functional import hace_loss

#: Five classes, two of them at inner nodes: "wasp" and "bee".
WASPS = ["wasp", "wasp/hornet", "wasp/paper", "bee/honey", "bee"]

LOSSES: dict[str, Callable[..., torch.nn.Module]] = {
    "HACE": hace.HACELoss,
    "HACE, 0.3": lambda h, **options: hace.HACELoss(h, 0.3, **options),
    "uniform": lambda h, **o: hace.HACELoss(h, label_smoothing=0.2, **o),
    "others": lambda h, **o: hace.HACELoss(h, label_smoothing=0.2, smoothing="others", **o),
    "nodes": lambda h, **o: hace.HACELoss(h, label_smoothing=0.2, smoothing="nodes", **o),
    "height": lambda h, **o: hace.HACELoss(h, soft_label_beta=3.0, **o),
    "depth": lambda h, **o: hace.HACELoss(h, soft_label_beta=3.0, soft_label_distance="depth", **o),
    "soft and smoothed": lambda h, **o: hace.SoftLabelLoss(
        h, 2.0, label_smoothing=0.3, smoothing="others", **o
    ),
    "CE": hace.CrossEntropyLoss,
    "r-CE": hace.RegularizedCrossEntropyLoss,
    "HXE": hace.HXELoss,
    "HXE, normalized": lambda h, **options: hace.HXELoss(h, 0.4, normalize=True, **options),
    "balanced": lambda h, **options: hace.PathLogLoss(h, "balanced", **options),
    "power": lambda h, **options: hace.PathLogLoss(h, "power", **options),
    "lazy": lambda h, **options: hace.PathLogLoss(h, "lazy", **options),
}

#: The losses whose only weight is at the target, which equal `nn.CrossEntropyLoss`.
PLAIN: dict[str, Callable[..., torch.nn.Module]] = {
    "HACE": lambda h, **options: hace.HACELoss(h, 1.0, **options),
    "CE": hace.CrossEntropyLoss,
    "r-CE": lambda h, **options: hace.RegularizedCrossEntropyLoss(h, 0.0, **options),
    "HXE": lambda h, **options: hace.HXELoss(h, 0.0, **options),
    "soft labels": lambda h, **options: hace.SoftLabelLoss(h, 1e5, **options),
    "soft labels, depth": lambda h, **o: hace.SoftLabelLoss(h, 1e5, distance="depth", **o),
}


def with_real_leaves(tree: trees.Tree) -> trees.Tree:
    labels = tree.labels()
    return trees.Tree(labels.parents, labels.classes)


def some_tree(seed: int = 3) -> trees.Tree:
    rng = np.random.default_rng(seed)
    return trees.random_tree(rng, 20, roots=1 + seed % 2, inner=0.5, shuffle=True)


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_a_leaf_under_its_node(name: str, seed: int) -> None:
    tree = some_tree(seed)
    assert len(tree.leaf_labels()) < tree.num_classes
    target = torch.arange(tree.num_classes)
    logits = 2 * torch.randn(len(target), len(target), dtype=torch.float64)
    found = LOSSES[name](hierarchy_of(tree), reduction="none")
    expected = LOSSES[name](hierarchy_of(with_real_leaves(tree)), reduction="none")
    incoming = torch.rand(len(target), dtype=torch.float64)
    assert_same(
        evaluate(found, logits, target, incoming), evaluate(expected, logits, target, incoming)
    )


@pytest.mark.parametrize("kind", ["pairs", "probabilities", "weights"])
def test_other_kinds_of_targets(kind: str) -> None:
    tree = some_tree()
    count, options = tree.num_classes, {}
    target: Any = torch.randint(count, (9,))
    if kind == "pairs":
        target = (torch.randint(count, (9, 3)), torch.rand(9, 3, dtype=torch.float64))
    elif kind == "probabilities":
        target = torch.rand(9, count, dtype=torch.float64)
    else:
        options = {"weight": torch.rand(count, dtype=torch.float64), "label_smoothing": 0.1}
    logits = torch.randn(9, count, dtype=torch.float64)
    found = hace.HACELoss(hierarchy_of(tree), 0.6, **options)
    expected = hace.HACELoss(hierarchy_of(with_real_leaves(tree)), 0.6, **options)
    assert_same(evaluate(found, logits, target), evaluate(expected, logits, target))


@pytest.mark.parametrize("smoothing", [None, "uniform", "others", "nodes"])
def test_in_a_dag(smoothing: str | None) -> None:
    """In a DAG, too, the class is a leaf of its own below its node."""
    for shape in ("shortcut", "diamonds", "random", "two roots", "nodes"):
        dag = dags.SHAPES[shape]
        edges, classes = list(dag.edges), list(dag.classes)
        inner = {parent for parent, _ in dag.edges}
        num_nodes = dag.num_nodes
        for label, node in enumerate(dag.classes):
            if node in inner:
                classes[label] = num_nodes
                edges.append((int(node), num_nodes))
                num_nodes += 1
        assert num_nodes > dag.num_nodes
        leafy = dags.Dag(edges, num_nodes, classes)
        options: dict[str, Any] = {}
        if smoothing is not None:
            options = {"label_smoothing": 0.2, "smoothing": smoothing}
        target = torch.arange(dag.num_classes)
        logits = torch.randn(len(target), len(target), dtype=torch.float64)
        found = hace.HACELoss(dags.hierarchy_of(dag), 0.6, **options)
        expected = hace.HACELoss(dags.hierarchy_of(leafy), 0.6, **options)
        assert_same(evaluate(found, logits, target), evaluate(expected, logits, target))


@pytest.mark.parametrize("name", PLAIN)
def test_dilution_1_is_cross_entropy_for_every_class(name: str) -> None:
    tree = some_tree()
    target = torch.arange(tree.num_classes)
    logits = torch.randn(len(target), len(target), dtype=torch.float64)
    incoming = torch.rand(len(target), dtype=torch.float64)
    found = PLAIN[name](hierarchy_of(tree), reduction="none")
    plain = torch.nn.CrossEntropyLoss(reduction="none")
    assert_same(
        evaluate(found, logits, target, incoming), evaluate(plain, logits, target, incoming)
    )


@pytest.mark.parametrize("name", PLAIN)
def test_dilution_1_is_cross_entropy_among_node_logits(name: str) -> None:
    """The class has the logit of its node, not the mass of its subtree."""
    tree = some_tree()
    target = torch.arange(tree.num_classes)
    logits = torch.randn(len(target), tree.num_nodes, dtype=torch.float64)
    found = PLAIN[name](hierarchy_of(tree), logit_space="nodes")
    node = torch.from_numpy(tree.classes.copy())

    def plain(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, node[target])

    assert_same(evaluate(found, logits, target), evaluate(plain, logits, target))


def test_a_node_id_means_the_subtree() -> None:
    tree = hace.Hierarchy.from_paths(WASPS)
    logits = torch.randn(1, 5, dtype=torch.float64)
    p = logits.softmax(1)[0]
    of_node = hace_loss(logits, torch.tensor([0]), tree, target_space="nodes", reduction="sum")
    torch.testing.assert_close(of_node, -(p[0] + p[1] + p[2]).log(), rtol=1e-12, atol=0)
    of_label = hace_loss(logits, torch.tensor([0]), tree, 0.7, reduction="sum")
    expected = -0.7 * p[0].log() - 0.3 * (p[0] + p[1] + p[2]).log()
    torch.testing.assert_close(of_label, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("logit_space", ["classes", "nodes"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_linear_model_learns_every_class(name: str, logit_space: str) -> None:
    """Five separable classes are learnt, including those at inner nodes."""
    tree = hace.Hierarchy.from_paths(WASPS)
    model = torch.nn.Linear(5, 5)  # as many nodes as classes
    x, labels = torch.eye(5), torch.arange(5)
    loss_fn = LOSSES[name](tree, logit_space=logit_space)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss_fn(model(x), labels).backward()
        optimizer.step()
    predicted = hace.predict(model(x), tree, logit_space=logit_space)
    assert predicted.tolist() == [0, 1, 2, 3, 4]


def test_smoothing_over_nodes_by_hand() -> None:
    """Each other node gets ε/(N−1) as a target of its own, whose mass rises from there."""
    tree = hace.Hierarchy.from_paths(["a/x", "a/y", "b"])  # nodes x, y, b, a
    logits = torch.randn(1, 3, dtype=torch.float64)
    x, y, b = logits.softmax(1)[0].log()
    a = torch.logaddexp(x, y)
    to_x = 0.6 * x + 0.4 * a
    expected = -0.7 * to_x - 0.1 * (0.6 * y + 0.4 * a) - 0.1 * b - 0.1 * a
    options: dict[str, Any] = {"label_smoothing": 0.3, "smoothing": "nodes"}
    for target_space in ("classes", "nodes"):  # x is both
        loss = hace_loss(logits, torch.tensor([0]), tree, 0.6, target_space=target_space, **options)
        torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    coarse = hace_loss(logits, torch.tensor([3]), tree, 0.6, target_space="nodes", **options)
    expected = -0.7 * a - 0.1 * (to_x + 0.6 * y + 0.4 * a + b)
    torch.testing.assert_close(coarse, expected, rtol=1e-13, atol=0)


def test_smoothing_over_nodes_leaves_out_those_without_a_class() -> None:
    """Node 4 has no class at or below it, so it has no probability."""
    tree = hace.Hierarchy.from_parents([-1, 0, 0, -1, 3], classes=[1, 2])
    found = hace_loss(
        torch.zeros(1, 2), torch.tensor([0]), tree, 1.0, label_smoothing=0.2, smoothing="nodes"
    )
    expected = 0.8 * np.log(2) + 0.1 * np.log(2) + 0.1 * 0  # the root has probability 1
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_class_weights_of_smoothing_over_nodes() -> None:
    """Class weights are then per node, since the mass is spread over nodes."""
    tree = hace.Hierarchy.from_paths(["a/x", "a/y", "b"])
    options: dict[str, Any] = {"label_smoothing": 0.3, "smoothing": "nodes"}
    with pytest.raises(ValueError, match=r"smoothing='nodes' .* target_space='nodes'"):
        hace.HACELoss(tree, weight=torch.ones(3), **options)
    weight = torch.tensor([0.5, 2.0, 3.0, 0.25], dtype=torch.float64)
    logits = torch.randn(1, 3, dtype=torch.float64)
    x, y, b = logits.softmax(1)[0].log()
    a = torch.logaddexp(x, y)
    loss_fn = hace.HACELoss(
        tree, 1.0, target_space="nodes", weight=weight, reduction="sum", **options
    )
    expected = -(0.7 * 0.5 * x + 0.1 * (2.0 * y + 3.0 * b + 0.25 * a))
    torch.testing.assert_close(loss_fn(logits, torch.tensor([0])), expected, rtol=1e-13, atol=0)


def test_metrics_of_an_inner_class() -> None:
    """It is at distance 0 from itself, and at its node's height from classes below the node."""
    tree = hace.Hierarchy.from_paths(WASPS)
    labels = torch.arange(5)
    found = [hace.metrics.lca_height(labels, labels.roll(-k), tree).tolist() for k in range(3)]
    assert found == [[0, 0, 0, 0, 0], [1, 1, 2, 1, 2], [1, 2, 2, 2, 2]]
