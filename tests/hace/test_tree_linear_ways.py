"""The ways in which `hace.nn.TreeLinear` computes where its classes are the first or last nodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trees
from test_tree_linear import check
from tree_cases import hierarchy_of

import hace
from hace.nn import TreeLinear
from hace_kernels.ops import tree_linear

pytestmark = pytest.mark.skipif(
    not hace.backends()["cpu"].available, reason="these are the ways of the C++ kernels"
)


def with_classes(tree: trees.Tree, where: str, rng: np.random.Generator) -> trees.Tree:
    """The same tree, numbered anew: its classes as the first or last nodes, in random order."""
    labels = rng.permutation(tree.num_classes)
    others = np.setdiff1d(np.arange(tree.num_nodes), tree.classes)
    others = rng.permutation(others)
    classes = tree.classes[labels]
    order = np.concatenate([classes, others] if where == "first" else [others, classes])
    number = np.empty(tree.num_nodes + 1, np.int64)
    number[order], number[-1] = np.arange(tree.num_nodes), -1
    return trees.Tree(number[tree.parents[order]], number[classes])


def barren(rng: np.random.Generator) -> trees.Tree:
    """A random forest, and a root whose only child has no class."""
    tree = trees.random_tree(rng, 40, roots=3)
    size = tree.num_nodes
    return trees.Tree(np.concatenate([tree.parents, [-1, size]]), tree.classes)


SHAPES: dict[str, Callable[[np.random.Generator], trees.Tree]] = {
    "one class": lambda rng: trees.flat(1, rooted=False),
    "flat forest": lambda rng: trees.flat(13, rooted=False),
    "many children": lambda rng: trees.flat(700),
    "chain": lambda rng: trees.chain(6),
    "caterpillar": lambda rng: trees.caterpillar(40),
    "balanced": lambda rng: trees.balanced([3, 2, 4, 16]),
    "forest": lambda rng: trees.random_tree(rng, 150, roots=6),
    "nodes without classes": barren,
}


WAYS = ["logits", "parts", "vectors"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes all layers of the test go one way."""
    number = WAYS.index(request.param)
    monkeypatch.setattr(tree_linear, "_way", lambda *sizes: number)
    return str(request.param)


def node_of(output: torch.Tensor) -> str:
    """The autograd node that made the output, or its input if it is only another shape."""
    assert output.grad_fn is not None
    name = output.grad_fn.name()
    if "View" in name or "Reshape" in name:
        name = output.grad_fn.next_functions[0][0].name()
    return name


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ways(rng: np.random.Generator, way: str, shape: str, where: str) -> None:
    tree = with_classes(SHAPES[shape](rng), where, rng)
    for dtype in (torch.float64, torch.float32):
        for rows, bias in ((1, True), (9, True), (6, False), (0, True)):
            layer = TreeLinear(7, hierarchy_of(tree), bias, dtype=dtype)
            x = torch.randn(rows, 7, dtype=dtype)
            assert way in node_of(layer(x)).lower()
            check(layer, tree.reach(), x)


def test_shapes_of_input(rng: np.random.Generator, way: str) -> None:
    tree = with_classes(trees.random_tree(rng, 50, roots=2), "first", rng)
    layer = TreeLinear(130, hierarchy_of(tree), dtype=torch.float64)
    empty = TreeLinear(0, hierarchy_of(tree))
    assert torch.equal(empty(torch.empty(2, 3, 0))[1, 2], empty.to_linear().bias)
    for shape in ((130,), (3, 5, 130), (0, 2, 130)):
        x = torch.randn(shape, dtype=torch.float64)
        assert way in node_of(layer(x)).lower()
        check(layer, tree.reach(), x)
    check(layer, tree.reach(), torch.randn(130, 4, dtype=torch.float64).T)


def test_incoming_gradients_of_any_layout(rng: np.random.Generator, way: str) -> None:
    tree = with_classes(trees.random_tree(rng, 50), "last", rng)
    layer = TreeLinear(5, hierarchy_of(tree), dtype=torch.float64)
    x = torch.randn(6, 5, dtype=torch.float64)
    grad = torch.randn(tree.num_classes, 6, dtype=torch.float64).T
    inputs = list(layer.parameters())
    for incoming in (grad, torch.ones((), dtype=torch.float64).expand(6, tree.num_classes)):
        found = torch.autograd.grad(layer(x), inputs, incoming)
        expected = torch.autograd.grad(layer(x), inputs, incoming.contiguous())
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_all_derivatives(rng: np.random.Generator, way: str) -> None:
    tree = with_classes(trees.random_tree(rng, 5, roots=2), "first", rng)
    layer = TreeLinear(3, hierarchy_of(tree), dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]

    def outputs(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    inputs = (x, *layer.parameters())
    assert way in node_of(layer(x)).lower()
    assert torch.autograd.gradcheck(outputs, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(outputs, inputs)
    each = torch.func.vmap(torch.func.grad(lambda x: layer(x).square().sum()))(x)
    whole = torch.autograd.grad(layer(x).square().sum(), x)[0]
    torch.testing.assert_close(each, whole)


def test_frozen_parameters(rng: np.random.Generator, way: str) -> None:
    tree = with_classes(trees.random_tree(rng, 20), "first", rng)
    layer = TreeLinear(5, hierarchy_of(tree), dtype=torch.float64)
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    layer(x).square().sum().backward()
    inputs = {"input": x, "weight": layer.weight, "bias": layer.bias}
    expected = {name: tensor.grad for name, tensor in inputs.items()}
    for name, tensor in inputs.items():
        for other in inputs.values():
            other.grad = None
            other.requires_grad_(other is tensor)
        layer(x).square().sum().backward()
        for other, value in inputs.items():
            if other == name:
                torch.testing.assert_close(value.grad, expected[name], rtol=1e-12, atol=1e-13)
            else:
                assert value.grad is None


def test_threads_do_not_change_a_bit(rng: np.random.Generator, way: str) -> None:
    """The products are torch's; so only the sums are compared, of small integers."""
    tree = with_classes(trees.balanced([10, 10, 30]), "first", rng)
    layer = TreeLinear(4, hierarchy_of(tree))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-8, 8, parameter.shape))
    x = torch.randint(-8, 8, (40, 4)).float()
    incoming = torch.randint(-8, 8, (40, tree.num_classes)).float()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            output = layer(x)
            found.append([output, *torch.autograd.grad(output, layer.parameters(), incoming)])
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(found[0][0], layer.double()(x.double()).float())


@pytest.mark.parametrize("kind", ["inner class", "other order"])
def test_classes_elsewhere(rng: np.random.Generator, kind: str) -> None:
    tree = with_classes(trees.random_tree(rng, 20), "first", rng)
    classes = tree.classes.copy()
    if kind == "inner class":
        classes[0] = tree.num_nodes - 1
    else:
        classes[:2] = classes[1::-1]
    tree = trees.Tree(tree.parents, classes)
    layer = TreeLinear(5, hierarchy_of(tree), dtype=torch.float64)
    assert layer._class_rows is None
    check(layer, tree.reach(), torch.randn(3, 5, dtype=torch.float64))


def test_which_way(rng: np.random.Generator) -> None:
    """Few logits; more logits than vectors; fewer; and nearly as many inner nodes as classes."""
    for branching, rows, features, way in (
        ([10, 10, 10], 16, 128, "logits"),
        ([10, 10, 10], 300, 16, "vectors"),
        ([10, 10, 100], 16, 128, "parts"),
        ([2] * 10, 64, 128, "vectors"),
    ):
        tree = with_classes(trees.balanced(branching), "first", rng)
        layer = TreeLinear(features, hierarchy_of(tree))
        assert way in node_of(layer(torch.randn(rows, features))).lower()


@pytest.fixture
def tied(rng: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of the weight, of which the rows are made, too."""
    tree = with_classes(trees.random_tree(rng, 6, roots=2), "first", rng)
    layer = TreeLinear(3, hierarchy_of(tree), dtype=torch.float64)
    layer.bias.requires_grad_(False)

    def squares(weight: torch.Tensor) -> torch.Tensor:
        rows = weight[:4].sin()
        logits = torch.func.functional_call(layer, {"weight": weight}, (rows,))
        return logits.square().sum()

    squares.weight = layer.weight.detach().clone().requires_grad_()  # type: ignore[attr-defined]
    return squares


def test_rows_that_come_from_the_weight(
    way: str, tied: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Each path from the weight counts once, also in a gradient that has derivatives."""
    weight = tied.weight  # type: ignore[attr-defined]
    assert torch.autograd.gradcheck(tied, weight)
    (expected,) = torch.autograd.grad(tied(weight), weight)
    (found,) = torch.autograd.grad(tied(weight), weight, create_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradgradcheck(tied, weight)


def test_what_no_gradient_depends_on_may_change(rng: np.random.Generator, way: str) -> None:
    """As with nn.Linear: the weight, if the input needs no gradient, and the other way round."""
    tree = with_classes(trees.random_tree(rng, 20), "last", rng)
    layer, x = TreeLinear(5, hierarchy_of(tree)), torch.randn(6, 5)
    for wanted, frozen in ((layer.weight, x), (x, layer.weight)):
        frozen.requires_grad_(False)
        logits = layer(x.detach() if wanted is not x else x.requires_grad_())
        incoming = torch.randn(logits.shape)
        (expected,) = torch.autograd.grad(logits, wanted, incoming, retain_graph=True)
        kept = wanted.detach().clone()
        with torch.no_grad():
            wanted.zero_()
        for create_graph in (True, False):
            (found,) = torch.autograd.grad(
                logits, wanted, incoming, retain_graph=True, create_graph=create_graph
            )
            torch.testing.assert_close(found, expected)
        with torch.no_grad():
            wanted.copy_(kept)


def test_second_derivatives_with_frozen_arguments(rng: np.random.Generator, way: str) -> None:
    tree = with_classes(trees.random_tree(rng, 4, roots=2), "last", rng)
    layer = TreeLinear(2, hierarchy_of(tree), dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]

    def outputs(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = torch.randn(3, 2, dtype=torch.float64), *layer.parameters()
    for frozen in range(3):
        some = [y.detach().requires_grad_(i != frozen) for i, y in enumerate(inputs)]
        assert torch.autograd.gradcheck(outputs, some, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(outputs, some)


def test_backend_of_the_environment(
    rng: np.random.Generator, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = with_classes(trees.random_tree(rng, 20), "first", rng)
    layer, x = TreeLinear(5, hierarchy_of(tree)), torch.randn(6, 5)
    assert way in node_of(layer(x)).lower()
    monkeypatch.setenv("HACE_BACKEND", "reference")
    assert way not in node_of(layer(x)).lower()
