"""`hace.nn.HierarchicalClassifier`, which keeps depth-first order inside and labels outside.

Each test compares it with its parts put together by hand: `to_linear()`, whose rows are in label
order, and the loss that was passed in.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import dags
import numpy as np
import pytest
import torch
import trees
from tree_cases import SHAPES, hierarchy_of

import hace
from hace.nn import HierarchicalClassifier, Prediction

PATHS = ["animal/dog/husky", "animal/dog/pug", "animal/cat/siamese", "vehicle/car", "vehicle/bus"]

#: Every loss over paths, and options of each kind.
LOSSES: dict[str, Callable[..., torch.nn.Module]] = {
    "HACE": hace.HACELoss,
    "HACE, smoothed": lambda h, **o: hace.HACELoss(h, 0.4, label_smoothing=0.1, **o),
    "HACE, eps": lambda h, **o: hace.HACELoss(h, 0.4, eps=1e-2, **o),
    "CE": hace.CrossEntropyLoss,
    "HXE": lambda h, **o: hace.HXELoss(h, 0.3, **o),
    "r-CE": lambda h, **o: hace.RegularizedCrossEntropyLoss(h, 0.3, **o),
    "soft labels": lambda h, **o: hace.SoftLabelLoss(h, 5.0, **o),
    "balanced": lambda h, **o: hace.PathLogLoss(h, "balanced", **o),
    "node weights": lambda h, **o: hace.PathLogLoss(h, np.cos(np.arange(h.num_nodes)), **o),
    "function": lambda h, **o: hace.PathLogLoss(h, lambda t, n, d, h: 1 / (1.0 + t + d), **o),
}


@pytest.fixture
def tree(rng: np.random.Generator) -> hace.Hierarchy:
    """A forest with inner classes and shuffled labels."""
    hierarchy = hierarchy_of(trees.random_tree(rng, 20, roots=3, inner=0.3, shuffle=True))
    assert (np.diff(hierarchy.depth_first_classes) < 0).any()
    return hierarchy


@pytest.fixture
def animals() -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(PATHS)


def classifier_of(
    hierarchy: hace.Hierarchy, loss: Any = None, features: int = 7, **options: Any
) -> HierarchicalClassifier:
    return HierarchicalClassifier(features, hierarchy, loss, dtype=torch.float64, **options)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Asserts equality up to float64's rounding, since sums are taken in another order."""
    size = max(expected.abs().flatten().tolist(), default=0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * size, equal_nan=True)


def check(
    classifier: HierarchicalClassifier, loss_fn: torch.nn.Module, x: torch.Tensor, target: Any
) -> Prediction:
    """Compares loss and gradients with the loss of logits in label order."""
    prediction = classifier(x, target)
    weight = classifier.linear.weight
    incoming = torch.randn(prediction.loss.shape, dtype=prediction.loss.dtype)
    grad, grad_x = torch.autograd.grad(prediction.loss, [weight, x], incoming)

    linear = classifier.to_linear()
    loss = loss_fn(linear(x), target)
    expected, expected_x = torch.autograd.grad(loss, [linear.weight, x], incoming)
    assert prediction.loss.shape == loss.shape
    assert_same(prediction.loss.detach(), loss.detach())
    assert_same(grad_x, expected_x)
    order = torch.from_numpy(classifier.hierarchy.depth_first_classes.copy())
    assert_same(grad, expected[order])
    return prediction


# --- the same as the loss of label-order logits ---------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_trees(rng: np.random.Generator, shape: str, name: str) -> None:
    hierarchy = hierarchy_of(SHAPES[shape](rng))
    loss_fn = LOSSES[name](hierarchy)
    x = torch.randn(hierarchy.num_classes, 7, dtype=torch.float64).requires_grad_()
    check(classifier_of(hierarchy, loss_fn), loss_fn, x, torch.arange(hierarchy.num_classes))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_class_weights_and_ignored_rows(tree: hace.Hierarchy, name: str, reduction: str) -> None:
    """Weights are in label order, as for the loss alone."""
    weight = torch.linspace(0.1, 3, tree.num_classes, dtype=torch.float64)
    loss_fn = LOSSES[name](tree, weight=weight, reduction=reduction, ignore_index=2)
    x = torch.randn(9, 7, dtype=torch.float64).requires_grad_()
    target = torch.tensor([0, 2, 5, 2, 7, 1, 3, 19, 11])
    output = check(classifier_of(tree, loss_fn), loss_fn, x, target).output
    assert (output[[1, 3]] == 0).all(), "an ignored row has no target"
    assert (output[[0, 2, 4, 5, 6, 7, 8]] < 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_coarse_targets(tree: hace.Hierarchy, name: str) -> None:
    """`target_space="nodes"` takes node ids, and the output is the subtree's log-probability."""
    loss_fn = LOSSES[name](tree, target_space="nodes")
    target = torch.arange(tree.num_nodes)
    x = torch.randn(tree.num_nodes, 7, dtype=torch.float64).requires_grad_()
    classifier = classifier_of(tree, loss_fn)
    output = check(classifier, loss_fn, x, target).output
    log_prob = hace.functional.node_log_probs(classifier.to_linear()(x), tree)
    assert_same(output, log_prob.gather(1, target[:, None])[:, 0])


@pytest.mark.parametrize("name", ["HACE", "HACE, smoothed", "CE"])
@pytest.mark.parametrize("kind", ["probabilities", "pairs"])
def test_soft_targets(tree: hace.Hierarchy, name: str, kind: str) -> None:
    """Soft targets are in label order, and have no single target whose log P could be returned."""
    loss_fn = LOSSES[name](tree)
    target: Any = torch.rand(6, tree.num_classes, dtype=torch.float64)
    if kind == "pairs":
        target = (torch.randint(tree.num_classes, (6, 3)), torch.rand(6, 3, dtype=torch.float64))
    x = torch.randn(6, 7, dtype=torch.float64).requires_grad_()
    assert check(classifier_of(tree, loss_fn), loss_fn, x, target).output is None


def test_default_loss(tree: hace.Hierarchy) -> None:
    x = torch.randn(6, 7, dtype=torch.float64).requires_grad_()
    check(classifier_of(tree), hace.HACELoss(tree), x, torch.arange(6))


def test_one_row(tree: hace.Hierarchy) -> None:
    """It accepts an input (F) and a target without dimensions."""
    classifier, x = classifier_of(tree), torch.randn(7, dtype=torch.float64).requires_grad_()
    prediction = check(classifier, hace.HACELoss(tree), x, torch.tensor(4))
    assert prediction.output.shape == prediction.loss.shape == ()
    assert_same(prediction.output, classifier.log_prob(x)[4])
    assert classifier.predict(x).shape == ()
    assert classifier.log_prob(x).shape == (tree.num_classes,)


def test_no_rows(tree: hace.Hierarchy) -> None:
    classifier, x = classifier_of(tree), torch.randn(0, 7, dtype=torch.float64)
    prediction = classifier(x, torch.zeros(0, dtype=torch.long))
    assert prediction.output.shape == (0,)
    assert prediction.loss.isnan(), "the mean of nothing is NaN, as in nn.CrossEntropyLoss"
    assert classifier.predict(x).shape == (0,)
    assert classifier.log_prob(x).shape == (0, tree.num_classes)


def test_without_a_bias(tree: hace.Hierarchy) -> None:
    classifier = classifier_of(tree, bias=False)
    assert classifier.linear.bias is None
    assert classifier.to_linear().bias is None
    x = torch.randn(6, 7, dtype=torch.float64).requires_grad_()
    check(classifier, hace.HACELoss(tree), x, torch.arange(6))


# --- what it predicts -----------------------------------------------------------------------------


def test_output_is_the_targets_log_probability(tree: hace.Hierarchy) -> None:
    """The output is like that of nn.AdaptiveLogSoftmaxWithLoss, and can be differentiated too."""
    classifier = classifier_of(tree)
    x = torch.randn(tree.num_classes, 7, dtype=torch.float64)
    target = torch.arange(tree.num_classes)
    output, _ = classifier(x, target)
    assert_same(output, classifier.log_prob(x).gather(1, target[:, None])[:, 0])
    (grad,) = torch.autograd.grad(output.sum(), classifier.linear.weight)
    assert grad.abs().sum() > 0


def test_log_prob_predict_and_to_linear(tree: hace.Hierarchy) -> None:
    classifier = classifier_of(tree)
    x = torch.randn(40, 7, dtype=torch.float64)
    logits = classifier.to_linear()(x)
    assert_same(classifier.log_prob(x), logits.log_softmax(1))
    labels = classifier.predict(x)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, logits.argmax(1))
    assert torch.equal(labels, hace.predict(logits, tree))
    assert torch.equal(labels, hace.predict(classifier.linear(x), tree, logit_space="depth_first"))
    assert len(set(labels.tolist())) > 5


def test_more_dimensions(tree: hace.Hierarchy) -> None:
    """Prediction takes (…, F)."""
    classifier, x = classifier_of(tree), torch.randn(2, 3, 7, dtype=torch.float64)
    assert classifier.predict(x).shape == (2, 3)
    assert_same(classifier.log_prob(x), classifier.to_linear()(x).log_softmax(-1))


def test_to_linear_is_a_copy(animals: hace.Hierarchy) -> None:
    """It is a copy even if the labels are in depth-first order already."""
    classifier = classifier_of(animals)
    assert animals.depth_first_classes.tolist() == list(range(5))
    linear = classifier.to_linear()
    assert torch.equal(linear.weight, classifier.linear.weight)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    assert classifier.linear.weight.abs().sum() > 0
    assert classifier.linear.bias.abs().sum() > 0
    for parameter in linear.parameters():
        assert parameter.is_leaf
        assert parameter.requires_grad


def test_rows_lie_in_depth_first_order(tree: hace.Hierarchy) -> None:
    """As documented: row i of the layer is class `depth_first_classes[i]`."""
    classifier = classifier_of(tree)
    order = torch.from_numpy(tree.depth_first_classes.copy())
    assert torch.equal(classifier.linear.weight, classifier.to_linear().weight[order])
    assert torch.equal(classifier.linear.bias, classifier.to_linear().bias[order])


# --- the module -----------------------------------------------------------------------------------


def test_callers_loss_stays_as_it_was(tree: hace.Hierarchy) -> None:
    """Changes of the classifier do not affect the loss that was passed in, nor the reverse."""
    weight = torch.rand(tree.num_classes)
    loss_fn = hace.HACELoss(tree, weight=weight)
    before = repr(loss_fn)
    classifier = HierarchicalClassifier(7, tree, loss_fn)
    classifier.double()
    classifier.loss.register_buffer("mine", torch.ones(1))
    assert loss_fn.weight.dtype == torch.float32
    assert list(loss_fn.state_dict()) == ["weight"]
    assert repr(loss_fn) == before
    loss_fn.weight.zero_()
    assert classifier.loss.weight.abs().sum() > 0


def test_state_dict(tree: hace.Hierarchy) -> None:
    """The state has the layer's parameters, the class weights, and the hierarchy's digests."""
    weight = torch.rand(tree.num_classes, dtype=torch.float64)
    classifier = classifier_of(tree, hace.HACELoss(tree, weight=weight))
    assert set(classifier.state_dict()) == {
        "linear.weight",
        "linear.bias",
        "loss.weight",
        "_extra_state",
    }
    assert "loss.weight" not in classifier_of(tree).state_dict()
    other = classifier_of(tree, hace.HACELoss(tree, weight=torch.ones_like(weight)))
    x, target = torch.randn(5, 7, dtype=torch.float64), torch.arange(5)
    assert other(x, target).loss != classifier(x, target).loss
    other.load_state_dict(classifier.state_dict())
    assert torch.equal(other(x, target).loss, classifier(x, target).loss)
    assert torch.equal(other.predict(x), classifier.predict(x))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "function"])
def test_copies(tree: hace.Hierarchy, name: str, duplicate: Callable[[Any], Any]) -> None:
    classifier = classifier_of(tree, LOSSES[name](tree))
    x, target = torch.randn(5, 7, dtype=torch.float64), torch.arange(5)
    copied = duplicate(classifier)
    for found, expected in zip(copied(x, target), classifier(x, target), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(copied.predict(x), classifier.predict(x))
    assert torch.equal(copied.log_prob(x), classifier.log_prob(x))
    with torch.no_grad():
        copied.linear.weight.zero_()
    assert classifier.linear.weight.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(tree: hace.Hierarchy, dtype: torch.dtype) -> None:
    """Logits are in half precision, losses and log-probabilities in float32."""
    classifier = HierarchicalClassifier(7, tree, dtype=dtype)
    x, target = torch.randn(5, 7).to(dtype), torch.arange(5)
    output, loss = classifier(x, target)
    log_prob = classifier.log_prob(x)
    assert output.dtype == loss.dtype == log_prob.dtype == torch.float32
    exact = classifier.linear(x).double()[:, tree.depth_first_classes.argsort()]
    expected = hace.HACELoss(tree)(exact, target)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(log_prob.double(), exact.log_softmax(1), rtol=2e-6, atol=0)
    loss.backward()
    assert classifier.linear.weight.grad.dtype == dtype


def test_autocast(tree: hace.Hierarchy) -> None:
    classifier = HierarchicalClassifier(7, tree)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, loss = classifier(torch.randn(5, 7), torch.arange(5))
        assert classifier.log_prob(torch.randn(5, 7)).dtype == torch.float32
    assert output.dtype == loss.dtype == torch.float32
    loss.backward()
    assert classifier.linear.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", ["HACE", "HACE, smoothed", "r-CE", "soft labels"])
@pytest.mark.parametrize("pickled", [False, True], ids=["new", "pickled"])
def test_compiled(tree: hace.Hierarchy, name: str, pickled: bool) -> None:
    torch._dynamo.reset()
    classifier = classifier_of(tree, LOSSES[name](tree))
    model = pickle.loads(pickle.dumps(classifier)) if pickled else classifier
    x, target = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 3, 5, -100, 2])
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(x, target)
    for value, expected in zip(found, classifier(x, target), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def test_device_and_dtype(tree: hace.Hierarchy) -> None:
    meta = HierarchicalClassifier(7, tree, device="meta")
    assert meta.linear.weight.is_meta
    assert meta.predict(torch.randn(2, 7, device="meta")).is_meta
    assert classifier_of(tree).linear.weight.dtype == torch.float64


def test_repr(tree: hace.Hierarchy) -> None:
    text = repr(HierarchicalClassifier(7, tree, hace.HXELoss(tree, 0.35)))
    for part in ("HierarchicalClassifier(", "in_features=7", "HXELoss", "alpha=0.35"):
        assert part in text
    assert len(text) < 700


def test_gradcheck(rng: np.random.Generator) -> None:
    tree = hierarchy_of(trees.random_tree(rng, 4, roots=2, inner=0.5, shuffle=True))
    classifier, target = classifier_of(tree, features=2), torch.tensor([0, 2])

    def results(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*classifier(x, target), classifier.log_prob(x))

    x = torch.randn(2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(results, (x,))
    assert torch.autograd.gradgradcheck(results, (x,))


# --- wrong arguments ------------------------------------------------------------------------------


def test_loss_that_does_not_fit(animals: hace.Hierarchy, tree: hace.Hierarchy) -> None:
    with pytest.raises(TypeError, match="LayeredCrossEntropyLoss"):
        HierarchicalClassifier(7, tree, hace.LayeredCrossEntropyLoss(tree))
    with pytest.raises(TypeError, match="CrossEntropyLoss"):
        HierarchicalClassifier(7, tree, torch.nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="type"):
        HierarchicalClassifier(7, tree, hace.HACELoss)
    with pytest.raises(ValueError, match=r"5 classes.*another|another.*5 classes"):
        HierarchicalClassifier(7, tree, hace.HACELoss(animals))
    with pytest.raises(ValueError, match="classes"):
        HierarchicalClassifier(7, tree, hace.HACELoss(tree, logit_space="nodes"))


def test_equal_hierarchies_are_one(animals: hace.Hierarchy) -> None:
    same = hace.Hierarchy.from_paths(PATHS)
    loss = HierarchicalClassifier(7, animals, hace.HACELoss(same))(
        torch.randn(2, 7), torch.arange(2)
    )
    assert loss.loss.isfinite()


def test_loss_of_depth_first_logits_fits_as_it_is(tree: hace.Hierarchy) -> None:
    loss_fn = hace.HACELoss(tree, logit_space="depth_first")
    x = torch.randn(6, 7, dtype=torch.float64).requires_grad_()
    check(classifier_of(tree, loss_fn), hace.HACELoss(tree), x, torch.arange(6))


def test_not_a_hierarchy() -> None:
    for wrong in ([-1, 0, 0], None, "animal/dog"):
        with pytest.raises(TypeError, match="Hierarchy"):
            HierarchicalClassifier(7, wrong)


def test_dag() -> None:
    """A DAG is refused, since it has no depth-first order."""
    dag = dags.diamond()
    with pytest.raises(
        (TypeError, ValueError), match="HierarchicalClassifier needs a tree; node 3 has 2 parents"
    ):
        HierarchicalClassifier(7, dags.hierarchy_of(dag))


@pytest.mark.parametrize("bad", [-1, 5, 10**12])
def test_target_out_of_range(animals: hace.Hierarchy, bad: int) -> None:
    with pytest.raises(IndexError, match=rf"{bad}\b"):
        HierarchicalClassifier(7, animals)(torch.randn(2, 7), torch.tensor([0, bad]))


def test_targets_that_do_not_fit(animals: hace.Hierarchy) -> None:
    classifier = HierarchicalClassifier(7, animals)
    with pytest.raises(ValueError, match=r"\(2,\)"):
        classifier(torch.randn(2, 7), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        classifier(torch.randn(2, 7), torch.rand(2, 4))
    with pytest.raises(ValueError, match="indices"):
        HierarchicalClassifier(7, animals, hace.HXELoss(animals))(
            torch.randn(2, 7), torch.rand(2, 5)
        )
