"""Arguments as users pass them: NumPy's numbers, bytes as labels, one-hot rows, lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

import hace
from hace.functional import hace_loss

PATHS = ["animal/dog", "animal/cat", "vehicle/car", "vehicle/bus"]
TARGET = torch.tensor([0, 3, 1])


@pytest.fixture
def tree() -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(PATHS)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 4)


# Numbers


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"ignore_index": np.int64(3)}, {"ignore_index": 3}),
        ({"ignore_index": np.int32(3), "eps": np.float32(0.5)}, {"ignore_index": 3, "eps": 0.5}),
        ({"label_smoothing": np.float32(0.25)}, {"label_smoothing": 0.25}),
        ({"label_smoothing": 1}, {"label_smoothing": 1.0}),
        ({"soft_label_beta": np.int64(2)}, {"soft_label_beta": 2.0}),
        ({"dilution": np.float64(0.5)}, {"dilution": 0.5}),
        ({"dilution": 1}, {"dilution": 1.0}),
    ],
)
def test_numbers_of_every_type(
    tree: hace.Hierarchy, logits: torch.Tensor, given: dict[str, Any], plain: dict[str, Any]
) -> None:
    loss_fn, same = hace.HACELoss(tree, **given), hace.HACELoss(tree, **plain)
    assert repr(loss_fn) == repr(same)
    assert torch.equal(loss_fn(logits, TARGET), same(logits, TARGET))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda h: hace.HACELoss(h, "0.7"), "dilution must be a number, not str"),
        (lambda h: hace.HACELoss(h, None), "dilution must be a number, not NoneType"),
        (lambda h: hace.HACELoss(h, label_smoothing=None), "label_smoothing must be a number"),
        (lambda h: hace.HACELoss(h, label_smoothing=[0.1]), "label_smoothing must be a number"),
        (lambda h: hace.HACELoss(h, soft_label_beta="4"), "soft_label_beta must be a number"),
        (lambda h: hace.HACELoss(h, eps=None), "eps must be a number"),
        (lambda h: hace.HACELoss(h, ignore_index=1.0), "ignore_index must be an integer, got 1.0"),
        (lambda h: hace.HACELoss(h, backend=None), "backend must be a string"),
        (lambda h: hace.HACELoss(h, weight=[1, 1, 1, 1]), "weight must be a tensor .* got list"),
        (lambda h: hace.HXELoss(h, "0.1"), "alpha must be a number"),
        (lambda h: hace.SoftLabelLoss(h, None), "beta must be a number"),
        (lambda h: hace.RegularizedCrossEntropyLoss(h, None), "strength must be a number"),
        (lambda h: hace.PathLogLoss(h, "power", q="2"), "q must be a number"),
        (lambda h: hace.HACELoss(PATHS), "hierarchy must be a hace.Hierarchy, got list"),
    ],
)
def test_a_wrong_type_is_named(
    tree: hace.Hierarchy, make: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        make(tree)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1])
def test_numbers_out_of_range_are_named(tree: hace.Hierarchy, value: float) -> None:
    for name in ("label_smoothing", "soft_label_beta", "eps", "dilution"):
        with pytest.raises(ValueError, match=name):
            hace.HACELoss(tree, **{name: value})


# Tensors


def test_bytes_as_targets(tree: hace.Hierarchy, logits: torch.Tensor) -> None:
    """Segmentation masks are often bytes with 255 for ignored pixels; torch accepts them, too."""
    target = torch.tensor([0, 255, 1], dtype=torch.uint8)
    loss = hace.HACELoss(tree, 1.0, ignore_index=255)(logits, target)
    torch.testing.assert_close(loss, cross_entropy(logits, target.long(), ignore_index=255))
    soft = hace.HACELoss(tree, 1.0, label_smoothing=0.1)(logits, TARGET.byte())
    torch.testing.assert_close(soft, cross_entropy(logits, TARGET, label_smoothing=0.1))
    pair = (TARGET.byte()[:, None], torch.ones(3, 1))
    torch.testing.assert_close(hace_loss(logits, pair, tree, 1.0), cross_entropy(logits, TARGET))
    layered = hace.LayeredCrossEntropyLoss(tree)
    rows = torch.randn(3, tree.num_nodes)
    assert torch.equal(layered(rows, TARGET.byte()), layered(rows, TARGET))
    model = hace.nn.HierarchicalClassifier(5, tree)
    x = torch.randn(3, 5)
    assert torch.equal(model(x, TARGET.byte()).output, model(x, TARGET).output)


def test_one_hot_integers_get_a_hint(tree: hace.Hierarchy, logits: torch.Tensor) -> None:
    hot = one_hot(TARGET, 4)
    with pytest.raises(ValueError, match=r"one-hot.*argmax\(dim\).*target\.float\(\)"):
        hace_loss(logits, hot, tree)
    torch.testing.assert_close(
        hace_loss(logits, hot.float(), tree), hace_loss(logits, TARGET, tree)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": [[1.0, 2.0, 3.0, 4.0]]}, "input must be a tensor of logits, not list"),
        ({"input": np.zeros((3, 4))}, "input must be a tensor of logits, not ndarray"),
        ({"target": [0, 3, 1]}, "target must be a tensor .* got list"),
        ({"target": np.array([0, 3, 1])}, "target must be a tensor .* got ndarray"),
        ({"target": ([[0]], [[1.0]])}, "must be two tensors, got list and list"),
        ({"target": TARGET.int()}, r"int64 \(or uint8\) indices .* got torch.int32"),
        ({"target": TARGET.bool()}, "got torch.bool"),
        ({"weight": [1.0, 1.0, 1.0, 1.0]}, "weight must be a tensor .* got list"),
        ({"weight": np.ones(4)}, "weight must be a tensor .* got ndarray"),
        ({"weight": torch.ones(4, dtype=torch.complex64)}, "weight must be .* got torch.complex64"),
        ({"hierarchy": PATHS}, "hierarchy must be a hace.Hierarchy, got list"),
    ],
)
def test_what_is_no_tensor_is_named(
    tree: hace.Hierarchy, logits: torch.Tensor, change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"input": logits, "target": TARGET, "hierarchy": tree}
    with pytest.raises(TypeError, match=message):
        hace_loss(**{**arguments, **change})


# Pairs whose entries are ignored


@pytest.mark.parametrize("smoothing", ["uniform", "others", "nodes"])
def test_a_pair_of_ignored_entries_has_no_loss(
    tree: hace.Hierarchy, logits: torch.Tensor, smoothing: Any
) -> None:
    """If only some entries are ignored, smoothing applies to the others."""
    options: dict[str, Any] = {"label_smoothing": 0.3, "smoothing": smoothing}
    index = torch.tensor([[0, 1], [-100, -100], [2, -100]])
    share = torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 7.0]])
    logits.requires_grad_()
    loss = hace_loss(logits, (index, share), tree, reduction="none", **options)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss[1] == 0
    assert (grad[1] == 0).all()
    alone = hace_loss(logits[2:], torch.tensor([2]), tree, reduction="none", **options)
    torch.testing.assert_close(loss[2:], alone)
    one, two = (hace_loss(logits[:1], torch.tensor([label]), tree, **options) for label in (0, 1))
    torch.testing.assert_close(loss[0], (one + two) / 2)


# Soft labels


@pytest.mark.parametrize("distance", ["height", "depth"])
@pytest.mark.parametrize("beta", [1.0, 500.0, 1e5, 1e300])
def test_soft_labels_of_a_node_without_a_class_below(beta: float, distance: Any) -> None:
    """With a logit per node, such a node may be a target; its nearest classes share ancestors."""
    # Node 0 is above 1 and 2. Below 1 are the classes 3 and 4; below 2 are 5 and 6, not classes.
    parents = [-1, 0, 0, 1, 1, 2, 2]
    tree = hace.Hierarchy.from_parents(parents, classes=[3, 4])
    logits = torch.randn(3, 7, dtype=torch.float64)
    found = hace_loss(
        logits,
        torch.tensor([5, 2, 6]),
        tree,
        1.0,
        logit_space="nodes",
        target_space="nodes",
        soft_label_beta=beta,
        soft_label_distance=distance,
        reduction="none",
    )
    # Both classes are equally far away.
    expected = -logits.log_softmax(1)[:, 3:5].mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


# Classes by a mapping


def test_a_mapping_of_classes_counts_by_its_numbers() -> None:
    labels = {"cat": 1, "dog": 0}
    names, parents = ["animal", "cat", "dog"], [-1, 0, 0]
    for tree in (
        hace.Hierarchy.from_parents(parents, names, labels),
        hace.Hierarchy([0, 0, 1, 2], [0, 0], names, labels),
        hace.Hierarchy.from_edges([("animal", "cat"), ("animal", "dog")], labels),
        hace.Hierarchy.from_parents(parents, names, {0: "dog", 1: "cat"}),
    ):
        assert tree.class_names == ("dog", "cat")


def test_soft_labels_do_not_go_with_smoothing_over_nodes() -> None:
    tree = hace.Hierarchy.from_paths(["a/x", "a/y", "b/z"])
    options = {"label_smoothing": 0.1, "smoothing": "nodes"}
    with pytest.raises(ValueError, match="on classes alone"):
        hace.SoftLabelLoss(tree, 1.0, **options)
    with pytest.raises(ValueError, match="on classes alone"):
        hace.HACELoss(tree, soft_label_beta=1.0, **options)
    hace.SoftLabelLoss(tree, 1.0, smoothing="nodes")
