"""`hace.nn.TreeLinear` by tiles is the same as with whole logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import trees
from torch.utils._python_dispatch import TorchDispatchMode

import hace
from hace.nn import TreeLinear

ROWS, FEATURES = 9, 5


def shapes() -> dict[str, trees.Tree]:
    rng = np.random.default_rng(0)
    return {
        "balanced": trees.balanced([3, 3, 3]),
        "classes at inner nodes": trees.random_tree(rng, 50, roots=3, inner=0.3, shuffle=True),
        "deep": trees.random_tree(rng, 40, inner=0.1, shuffle=True),
        "flat": trees.flat(9),
        "chain": trees.chain(6),
        "one class": trees.flat(1),
        "nodes without a class": trees.Tree(np.array([-1, 0, 0, 1, 1, -1]), np.array([3, 4])),
    }


@pytest.fixture(params=shapes())
def tree(request: pytest.FixtureRequest) -> hace.Hierarchy:
    shape = shapes()[request.param]
    return hace.Hierarchy.from_parents(shape.parents, classes=shape.classes)


@pytest.fixture(params=[1, 7, 1000])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    for module in ("columns", "topk", "interval_log_prob"):
        name = f"hace_kernels.linear.{module}.tile_width"
        monkeypatch.setattr(name, lambda *shape: request.param)
    return int(request.param)


LOSSES: dict[str, Callable[..., Any]] = {
    "HACE": lambda tree: hace.HACELoss(tree, weight=torch.rand(tree.num_classes)),
    "HACE of nodes": lambda tree: hace.HACELoss(tree, target_space="nodes", reduction="none"),
    "smoothed": lambda tree: hace.HACELoss(tree, label_smoothing=0.1),
    "r-CE": lambda tree: hace.RegularizedCrossEntropyLoss(tree, 0.3),
}


def parts_of(layer: TreeLinear, x: torch.Tensor) -> list[torch.Tensor]:
    return [x, *layer.parameters()]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("HACE", torch.bfloat16),
        ("HACE of nodes", torch.float32),
        ("r-CE", torch.float64),
        ("smoothed", torch.float64),
    ],
    ids=str,
)
def test_the_same_as_of_whole_logits(
    tree: hace.Hierarchy, width: int, name: str, dtype: torch.dtype
) -> None:
    layer, loss_fn = TreeLinear(FEATURES, tree, dtype=dtype), LOSSES[name](tree)
    x = torch.randn(ROWS, FEATURES).to(dtype).requires_grad_()
    target = torch.from_numpy(tree.classes[np.arange(ROWS) % tree.num_classes])
    if name != "HACE of nodes":
        target = torch.arange(ROWS) % tree.num_classes
    target[3] = -100
    found = layer.loss(x, target, loss_fn, logit_bytes=0)
    wanted = loss_fn(layer(x), target)
    incoming = torch.rand_like(wanted)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    grads = [torch.autograd.grad(loss, parts_of(layer, x), incoming) for loss in (found, wanted)]
    for one, two in zip([found, *grads[0]], [wanted, *grads[1]], strict=True):
        scale = two.detach().abs().max().clamp(min=1e-3).item()
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("sizes", "rooted", "more"),
    # The gradient of a root above all classes is 0 up to rounding errors.
    [([8, 8, 8], False, 1.05), ([300], True, 1.3)],
    ids=["forest", "root"],
)
def test_half_precision_is_no_worse_than_with_whole_logits(
    width: int, sizes: list[int], rooted: bool, more: float
) -> None:
    """Inner nodes' gradients are summed over tiles in float32; only classes' are rounded before."""
    tree = hace.Hierarchy.from_parents(trees.balanced(sizes, rooted=rooted).parents)
    layer = TreeLinear(32, tree, dtype=torch.bfloat16)
    exact = TreeLinear(32, tree, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    x, target = torch.randn(64, 32).bfloat16(), torch.randint(tree.num_classes, (64,))
    loss_fn = hace.HACELoss(tree)
    errors = []
    (wanted,) = torch.autograd.grad(loss_fn(exact(x.double()), target), exact.weight)
    for loss in (layer.loss(x, target, loss_fn, logit_bytes=0), loss_fn(layer(x), target)):
        (grad,) = torch.autograd.grad(loss, layer.weight)
        errors.append((grad.double() - wanted).norm())
    assert errors[0] <= more * errors[1]


def test_pairs(tree: hace.Hierarchy, width: int) -> None:
    layer, loss_fn = TreeLinear(FEATURES, tree), hace.HACELoss(tree)
    x = torch.randn(ROWS, FEATURES)
    pair = torch.randint(tree.num_classes, (ROWS, 2)), torch.rand(ROWS, 2)
    found = layer.loss(x, pair, loss_fn, logit_bytes=0)
    torch.testing.assert_close(found, loss_fn(layer(x), pair))


def test_answers(tree: hace.Hierarchy, width: int) -> None:
    layer, x = TreeLinear(FEATURES, tree, dtype=torch.float64), torch.randn(ROWS, FEATURES).double()
    logits = layer(x)
    k = min(3, tree.num_classes)
    best = layer.topk(x, k)
    wanted = logits.log_softmax(1).topk(k)
    torch.testing.assert_close(best.log_prob, wanted.values.detach())
    assert torch.equal(best.label, wanted.indices)
    assert torch.equal(layer.predict(x), logits.argmax(1))
    assert torch.equal(layer.predict(x[0]), logits[0].argmax())
    nodes = torch.arange(tree.num_nodes)
    found = layer.node_log_probs(x, nodes)
    torch.testing.assert_close(found, hace.functional.node_log_probs(logits, tree).detach())


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an op makes, except views of `parameter`."""

    def __init__(self, parameter: torch.Tensor) -> None:
        super().__init__()
        self.own = parameter.untyped_storage().data_ptr()

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr() != self.own:
                self.largest = max(self.largest, each.numel())
        return out


def test_neither_logits_nor_class_weights_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hace_kernels.linear.columns.tile_width", lambda *shape: 16)
    tree = hace.Hierarchy.from_parents(trees.balanced([4, 8, 8]).parents)
    layer, loss_fn = TreeLinear(24, tree), hace.HACELoss(tree)
    x, target = torch.randn(24, 24), torch.arange(24)
    updated = hace.optim.TileSGD(layer.weight, 0.5)
    before = layer.weight.detach().clone()
    (grad,) = torch.autograd.grad(loss_fn(layer(x), target), layer.weight)
    with Largest(layer.weight) as seen:
        layer.loss(x, target, loss_fn, on_weight_grad=updated).backward()
    assert seen.largest < 24 * tree.num_classes // 2
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.weight.detach(), before - 0.5 * grad)


def test_each_node_is_updated_once(tree: hace.Hierarchy, width: int) -> None:
    layer, loss_fn, seen = TreeLinear(FEATURES, tree), hace.HACELoss(tree), []
    x, target = torch.randn(ROWS, FEATURES), torch.arange(ROWS) % tree.num_classes
    grad = torch.zeros_like(layer.weight)

    def note(nodes: torch.Tensor, part: torch.Tensor) -> None:
        seen.extend(nodes.tolist())
        grad[nodes] += part

    layer.loss(x, target, loss_fn, on_weight_grad=note).backward()
    assert len(set(seen)) == len(seen)
    (wanted,) = torch.autograd.grad(loss_fn(layer(x), target), layer.weight)
    torch.testing.assert_close(grad, wanted)


def test_small_products_and_other_targets_are_whole() -> None:
    tree = hace.Hierarchy.from_parents(trees.balanced([3, 3]).parents)
    layer, x = TreeLinear(FEATURES, tree), torch.randn(2, FEATURES)
    loss_fn = hace.HACELoss(tree)
    target = torch.tensor([0, 5])
    assert torch.equal(layer.loss(x, target, loss_fn), loss_fn(layer(x), target))
    dag = hace.Hierarchy.from_edges(
        [("a", "c"), ("b", "c"), ("a", "d")], allow_multiple_parents=True
    )
    layer, loss_fn = TreeLinear(FEATURES, dag), hace.HACELoss(dag)
    target = torch.tensor([0, 1])
    assert torch.equal(layer.loss(x, target, loss_fn, logit_bytes=0), loss_fn(layer(x), target))
    assert torch.equal(layer.predict(x), layer(x).argmax(1))
    with pytest.raises(ValueError, match="DAG"):
        layer.loss(x, target, loss_fn, on_weight_grad=lambda nodes, grad: None)


def test_arguments_are_checked() -> None:
    tree = hace.Hierarchy.from_paths(["a/b", "a/c", "d"])
    layer, x = TreeLinear(FEATURES, tree), torch.randn(2, FEATURES)
    target = torch.tensor([0, 1])
    with pytest.raises(TypeError, match="loss_fn must be a loss"):
        layer.loss(x, target, torch.nn.CrossEntropyLoss())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another hierarchy"):
        layer.loss(x, target, hace.HACELoss(hace.Hierarchy.from_paths(["a/b", "a/c", "e"])))
    with pytest.raises(ValueError, match='logit_space="classes"'):
        layer.loss(x, target, hace.HACELoss(tree, logit_space="depth_first"))
    with pytest.raises(IndexError, match="target 3 of row 1"):
        layer.loss(x, torch.tensor([0, 3]), hace.HACELoss(tree), logit_bytes=0)
    with pytest.raises(ValueError, match="between 1 and the 3 classes"):
        layer.topk(x, 4)
