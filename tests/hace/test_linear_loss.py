"""The losses of a linear layer, computed by tiles of classes, are those of its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

import hace
from hace.functional import hace_loss, linear_hace_loss
from hace.nn import HierarchicalClassifier
from hace_kernels.linear import columns

FEATURES = 6


@pytest.fixture
def tree() -> hace.Hierarchy:
    """60 classes whose label order is not the tree's depth-first order."""
    return hace.Hierarchy.from_paths(
        [f"{a}/{b}/{c}" for c in range(3) for a in range(4) for b in range(5)]
    )


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes tiles of a few classes."""
    monkeypatch.setattr(columns, "tile_width", lambda *shape: 7)
    monkeypatch.setattr("hace_kernels.linear.topk.tile_width", lambda *shape: 7)


def layer(rows: int, num_columns: int) -> list[torch.Tensor]:
    """Input, weight and bias."""
    shapes = [(rows, FEATURES), (num_columns, FEATURES), (num_columns,)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def assert_same(
    one: Callable[..., torch.Tensor], two: Callable[..., torch.Tensor], parts: list[torch.Tensor]
) -> None:
    """Asserts that two functions of input, weight and bias have equal losses and gradients."""
    losses = [call(*parts) for call in (one, two)]
    torch.testing.assert_close(*losses)
    incoming = torch.rand_like(losses[0])
    found, wanted = (torch.autograd.grad(loss, parts, incoming) for loss in losses)
    for gradients in zip(found, wanted, strict=True):
        torch.testing.assert_close(*gradients)


LOSSES: dict[str, Callable[..., Any]] = {
    "HACE": hace.HACELoss,
    "HACE of depth-first columns": lambda tree: hace.HACELoss(tree, logit_space="depth_first"),
    "HACE of node logits": lambda tree: hace.HACELoss(tree, logit_space="nodes"),
    "HACE with eps": lambda tree: hace.HACELoss(tree, eps=1e-6),
    "HACE of nodes": lambda tree: hace.HACELoss(tree, target_space="nodes"),
    "cross-entropy": hace.CrossEntropyLoss,
    "HXE": hace.HXELoss,
    "r-CE": hace.RegularizedCrossEntropyLoss,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_path_loss_has_a_linear_form(tree: hace.Hierarchy, name: str, reduction: str) -> None:
    loss_fn = LOSSES[name](tree)
    loss_fn.reduction = reduction
    on_nodes = loss_fn.options.logit_space == "nodes"
    parts = layer(5, tree.num_nodes if on_nodes else tree.num_classes)
    target = torch.tensor([0, 59, 17, -100, 3])
    assert_same(
        lambda x, w, b: loss_fn.linear(x, w, target, b, logit_bytes=0),
        lambda x, w, b: loss_fn(linear(x, w, b), target),
        parts,
    )


def test_as_a_function(tree: hace.Hierarchy) -> None:
    parts, target = layer(5, 60), torch.arange(5)
    options: dict[str, Any] = {"weight": torch.rand(60), "ignore_index": 3, "reduction": "sum"}
    assert_same(
        lambda x, w, b: linear_hace_loss(
            x, w, target, tree, 0.4, linear_bias=b, logit_bytes=0, **options
        ),
        lambda x, w, b: hace_loss(linear(x, w, b), target, tree, 0.4, **options),
        parts,
    )


def test_one_row_without_a_batch(tree: hace.Hierarchy) -> None:
    parts, loss_fn = layer(1, 60), hace.HACELoss(tree, reduction="none")
    parts[0] = parts[0].detach()[0].requires_grad_()
    target = torch.tensor(7)
    assert_same(
        lambda x, w, b: loss_fn.linear(x, w, target, b, logit_bytes=0),
        lambda x, w, b: loss_fn(linear(x, w, b), target),
        parts,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_pairs(tree: hace.Hierarchy, reduction: str) -> None:
    loss_fn = hace.HACELoss(tree, weight=torch.rand(60), reduction=reduction)
    pair = torch.randint(60, (5, 3)), torch.rand(5, 3)
    assert_same(
        lambda x, w, b: loss_fn.linear(x, w, pair, b, logit_bytes=0),
        lambda x, w, b: loss_fn(linear(x, w, b), pair),
        layer(5, 60),
    )


def test_spread_targets_take_whole_logits_while_they_fit(tree: hace.Hierarchy) -> None:
    loss_fn, target = hace.HACELoss(tree, label_smoothing=0.1), torch.arange(5)
    parts = layer(5, 60)
    assert_same(
        lambda x, w, b: loss_fn.linear(x, w, target, b),
        lambda x, w, b: loss_fn(linear(x, w, b), target),
        parts,
    )
    x, weight, bias = parts
    soft = hace.HACELoss(tree, soft_label_beta=4.0, eps=1e-6)
    with pytest.raises(ValueError, match=r"no eps by tiles.*F\.linear"):
        soft.linear(x, weight, target, bias, logit_bytes=0)
    with pytest.raises(ValueError, match="weighs single paths"):
        hace.HXELoss(tree).linear(
            x, weight, (torch.zeros(5, 1, dtype=torch.int64), torch.ones(5, 1)), bias, logit_bytes=0
        )


def test_shapes_are_checked(tree: hace.Hierarchy) -> None:
    (x, weight, bias), target = layer(5, 60), torch.arange(5)
    loss_fn = hace.HACELoss(tree)
    with pytest.raises(ValueError, match="linear_weight must be"):
        loss_fn.linear(x, weight[1:], target, bias)
    with pytest.raises(ValueError, match="target must be"):
        loss_fn.linear(x, weight, target[1:], bias)
    with pytest.raises(ValueError, match="input must be"):
        loss_fn.linear(x[None], weight, target, bias)
    with pytest.raises(TypeError, match="target must be a tensor"):
        loss_fn.linear(x, weight, [0, 1, 2, 3, 4], bias)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="target 60 of row 4"):
        loss_fn.linear(x, weight, torch.tensor([0, 1, 2, 3, 60]), bias, logit_bytes=0)


# --- the classifier -------------------------------------------------------------------------------


def twins(
    tree: hace.Hierarchy, make: Any = hace.HACELoss, **options: Any
) -> list[HierarchicalClassifier]:
    """The same classifier twice: by tiles, and with whole logits."""
    loss = make(tree, **options)
    made = [HierarchicalClassifier(FEATURES, tree, loss, fused=fused) for fused in (True, False)]
    made[1].load_state_dict(made[0].state_dict())
    return made


def of_inner_nodes(tree: hace.Hierarchy, **options: Any) -> hace.PathLogLoss:
    """A loss whose paths do not start at the target."""
    weights = np.where(tree.heights > 0, 0.5, 0.0)
    return hace.PathLogLoss(tree, lambda target, node, depth, height: weights[node], **options)


@pytest.mark.parametrize("make", [hace.HACELoss, of_inner_nodes])
@pytest.mark.parametrize("space", ["classes", "nodes"])
def test_the_classifier_gives_the_same_by_tiles(
    tree: hace.Hierarchy, space: Any, make: Any
) -> None:
    tiled, whole = twins(tree, make, target_space=space)
    assert (tiled.loss._tables.own_paths(torch.device("cpu")) is None) == (make is hace.HACELoss)
    x, target = torch.randn(6, FEATURES), torch.tensor([0, 5, -100, 59, 7, 7])
    if space == "nodes":
        target[1] = tree.num_nodes - 1
    results, gradients = [], []
    for model in (tiled, whole):
        leaf = x.clone().requires_grad_()
        loss, output = (prediction := model(leaf, target)).loss, prediction.output
        results.append((loss, output))
        # The log-probabilities are differentiable, too.
        gradients.append(
            torch.autograd.grad(loss + output @ torch.arange(6.0), [leaf, *model.parameters()])
        )
    for one, two in zip(results[0] + gradients[0], results[1] + gradients[1], strict=True):
        torch.testing.assert_close(one, two)


def test_the_classifier_predicts_the_same_by_tiles(tree: hace.Hierarchy) -> None:
    tiled, whole = twins(tree)
    tiled.logit_bytes = 0
    x = torch.randn(6, FEATURES)
    assert torch.equal(tiled.predict(x), whole.predict(x))
    log_prob, label = whole.log_prob(x).topk(4)
    found = tiled.topk(x, 4)
    torch.testing.assert_close(found.log_prob, log_prob)
    assert torch.equal(found.label, label)
    assert torch.equal(tiled.predict(x[0]), whole.predict(x[0]))
    assert tiled.topk(x[0], 2).label.shape == (2,)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an op makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.numel())
        return out


def test_the_classifier_takes_tiles_by_itself_beyond_its_budget(tree: hace.Hierarchy) -> None:
    x, target = torch.randn(64, FEATURES), torch.randint(60, (64,))
    for logit_bytes, is_whole in ((64 * 60 * 4, True), (64 * 60 * 4 - 1, False)):
        model = HierarchicalClassifier(FEATURES, tree, logit_bytes=logit_bytes)
        with Largest() as sizes:
            model(x, target).loss.backward()
            if not is_whole:
                model.predict(x)
        assert (sizes.largest >= 64 * 60) == is_whole


def test_an_update_by_tiles_of_the_classifier(tree: hace.Hierarchy) -> None:
    x, target = torch.randn(6, FEATURES), torch.arange(6)
    model = HierarchicalClassifier(FEATURES, tree, fused=True)
    weight = model.linear.weight

    def descend(rows: torch.Tensor | slice, grad: torch.Tensor) -> None:
        with torch.no_grad():
            weight[rows] -= grad

    wanted = torch.autograd.grad(model(x, target).loss, weight)[0]
    before = weight.detach().clone()
    model.on_weight_grad = descend
    model(x, target).loss.backward()
    torch.testing.assert_close(weight.detach(), before - wanted)
    assert weight.grad is None
    assert model.linear.bias.grad is not None
    with pytest.raises(ValueError, match="fused=True"):
        HierarchicalClassifier(FEATURES, tree, on_weight_grad=descend)


@pytest.mark.parametrize("space", ["classes", "nodes"])
def test_the_classifier_takes_pairs_by_tiles(tree: hace.Hierarchy, space: Any) -> None:
    models = twins(tree, target_space=space, reduction="none")
    index = torch.randint(tree.num_classes if space == "classes" else tree.num_nodes, (5, 3))
    index[1, 2] = -100
    index[3] = -100
    share, x = torch.rand(5, 3), torch.randn(5, FEATURES)
    results = []
    for model in models:
        leaf = x.clone().requires_grad_()
        loss = model(leaf, (index, share)).loss
        assert loss[3] == 0
        results.append((loss, *torch.autograd.grad(loss.sum(), [leaf, *model.parameters()])))
        assert not results[-1][1][3].any()
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_fused_is_checked(tree: hace.Hierarchy) -> None:
    with pytest.raises(ValueError, match="fused must be"):
        HierarchicalClassifier(FEATURES, tree, fused="yes")  # type: ignore[arg-type]
    model = HierarchicalClassifier(
        FEATURES, tree, hace.HACELoss(tree, soft_label_beta=4.0, eps=1e-6), fused=True
    )
    with pytest.raises(ValueError, match="fused=True: targets that are spread"):
        model(torch.randn(2, FEATURES), torch.arange(2))
