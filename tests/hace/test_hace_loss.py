"""Values and gradients of `hace.HACELoss` and `hace.functional.hace_loss` for every option."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import trees
from backend import Backend, many_rows
from cases import DTYPES, REDUCTIONS, SPACES, evaluate
from rows import on_some_rows
from torch.nn.functional import cross_entropy
from tree_cases import hierarchy_of

import hace
from hace.functional import hace_loss

pytestmark = [
    pytest.mark.parity,
    pytest.mark.not_on("gpu", reason="the tensors are made on the CPU"),
    many_rows,
]


@on_some_rows
def check(
    tree: trees.Tree,
    input: torch.Tensor,
    target: Any,
    dilution: float = 0.7,
    *,
    roundings: float = 16,
    reduction: str = "mean",
    backend: str = "auto",
    logit_space: str = "classes",
    **options: Any,
) -> None:
    """Compares module and function with the oracle, on rows."""
    incoming = torch.randn(len(input)) if reduction == "none" else 1.0
    chosen = {"reduction": reduction, "backend": backend, "logit_space": logit_space, **options}
    module = hace.HACELoss(hierarchy_of(tree), dilution, **chosen)
    loss, grad = evaluate(module, input, target, incoming)
    same = hace_loss(input, target, hierarchy_of(tree), dilution, **chosen)
    torch.testing.assert_close(same, loss, rtol=0, atol=0, equal_nan=True)
    rows, divisor = oracle.hace(tree, input, target, dilution, logit_space=logit_space, **options)
    answer = oracle.reduce(rows, reduction, divisor, incoming)
    oracle.assert_loss_close(loss, answer, input.dtype, roundings)
    plain = 1 if reduction != "none" else 2
    oracle.assert_grad_close(grad, answer, roundings=roundings, output_roundings=plain)


def logits_for(
    tree: trees.Tree, rows: int, space: str = "classes", dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    width = tree.num_nodes if space == "nodes" else tree.num_classes
    return (2 * torch.randn(rows, width)).to(dtype)


def indices_for(tree: trees.Tree, rows: int, space: str = "classes") -> torch.Tensor:
    """Random targets; of nodes only those with a class at or below them, at every depth."""
    if space == "classes":
        return torch.randint(tree.num_classes, (rows,))
    valid = np.flatnonzero(tree.reach().any(axis=1))
    return torch.from_numpy(np.resize(np.random.default_rng(1).permutation(valid), rows))


# --- cross-entropy --------------------------------------------------------------------------------


def assert_like_cross_entropy(
    tree: trees.Tree, logits: torch.Tensor, target: torch.Tensor, backend: str, **options: Any
) -> None:
    """Asserts that HACE with dilution 1 equals nn.CrossEntropyLoss, up to rounding."""
    module = hace.HACELoss(hierarchy_of(tree), 1.0, backend=backend, **options)
    plain = torch.nn.CrossEntropyLoss(**options)
    incoming = torch.randn(plain(logits, target).shape, dtype=logits.dtype)
    loss, grad = evaluate(module, logits, target, incoming)
    expected, expected_grad = evaluate(plain, logits, target, incoming)
    assert loss.shape == expected.shape
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-14, equal_nan=True)
    largest = max(expected_grad.abs().flatten().tolist(), default=0.0)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-14 * largest, equal_nan=True)


def shapes_of(classes: int) -> dict[str, tuple[int, ...]]:
    return {
        "C": (classes,),
        "N C": (7, classes),
        "N C d1": (3, classes, 4),
        "N C d1 d2": (2, classes, 3, 2),
        "0 C": (0, classes),
        "0 C d1": (0, classes, 3),
        "N C 0": (2, classes, 0),
    }


@pytest.mark.parametrize("shape", shapes_of(0))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_with_indices(
    backend: Backend, leafy: trees.Tree, shape: str, reduction: str
) -> None:
    size = shapes_of(leafy.num_classes)[shape]
    logits = torch.randn(size, dtype=torch.float64)
    batch = size[:1] + size[2:] if len(size) > 1 else ()
    weight = torch.rand(leafy.num_classes, dtype=torch.float64)
    for weighted, ignore_index in itertools.product((None, weight), (-100, 4)):
        target = torch.randint(leafy.num_classes, batch)
        if target.numel() > 1:
            target.view(-1)[::4] = ignore_index
        assert_like_cross_entropy(
            leafy,
            logits,
            target,
            backend.name,
            weight=weighted,
            ignore_index=ignore_index,
            reduction=reduction,
        )


@pytest.mark.parametrize("shape", shapes_of(0))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_with_smoothing(leafy: trees.Tree, shape: str, reduction: str) -> None:
    size = shapes_of(leafy.num_classes)[shape]
    logits = torch.randn(size, dtype=torch.float64)
    batch = size[:1] + size[2:] if len(size) > 1 else ()
    weight = torch.rand(leafy.num_classes, dtype=torch.float64)
    for weighted, ignore_index in itertools.product((None, weight), (-100, 4)):
        target = torch.randint(leafy.num_classes, batch)
        if target.numel() > 1:
            target.view(-1)[::4] = ignore_index
        assert_like_cross_entropy(
            leafy,
            logits,
            target,
            "auto",
            weight=weighted,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=0.1,
        )


@pytest.mark.parametrize("shape", shapes_of(0))
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cross_entropy_with_probabilities(
    leafy: trees.Tree, shape: str, reduction: str, label_smoothing: float
) -> None:
    size = shapes_of(leafy.num_classes)[shape]
    logits = torch.randn(size, dtype=torch.float64)
    raw = torch.rand(size, dtype=torch.float64)
    weight = torch.rand(leafy.num_classes, dtype=torch.float64)
    normalised = raw / raw.sum(1 if len(size) > 1 else 0, keepdim=True)
    several = (raw > 0.7).double()
    for target, weighted in itertools.product((normalised, several), (None, weight)):
        assert_like_cross_entropy(
            leafy,
            logits,
            target,
            "auto",
            weight=weighted,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_with_all_ignored(
    leafy: trees.Tree, reduction: str, label_smoothing: float
) -> None:
    assert_like_cross_entropy(
        leafy,
        torch.randn(5, leafy.num_classes, dtype=torch.float64),
        torch.full((5,), -100),
        "auto",
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cross_entropy_in_low_precision(
    backend: Backend, leafy: trees.Tree, dtype: torch.dtype
) -> None:
    """A documented difference: the loss of half-precision logits is float32."""
    logits = logits_for(leafy, 9, dtype=dtype)
    target = indices_for(leafy, 9)
    loss, grad = evaluate(
        hace.HACELoss(hierarchy_of(leafy), 1.0, backend=backend.name), logits, target
    )
    exact, exact_grad = evaluate(cross_entropy, logits.double(), target)
    assert loss.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    unit = oracle.ROUNDOFF[dtype] + 16 * oracle.ROUNDOFF[torch.float32]
    torch.testing.assert_close(
        grad.double(), exact_grad, rtol=0, atol=unit * float(exact_grad.abs().max())
    )


# --- what the paper says --------------------------------------------------------------------------


def test_worked_example(backend: Backend) -> None:
    """At depth 2 with dilution 0.7, the leaf has weight 0.7, its parent 0.21, the root 0.09."""
    tree = hace.Hierarchy.from_paths(["thing/animal/dog", "thing/animal/cat", "thing/car/coupe"])
    logits = torch.tensor([[0.3, -1.0, 0.5]], dtype=torch.float64)
    prob = logits.softmax(1)[0]
    loss = hace_loss(logits, torch.tensor([1]), tree, 0.7, backend=backend.name)
    expected = -0.7 * prob[1].log() - 0.21 * (prob[0] + prob[1]).log()
    torch.testing.assert_close(loss, expected)


def test_top_node_of_a_forest_takes_the_remainder(backend: Backend) -> None:
    """As for CIFAR-100 in the paper, a leaf gets d and its top-level superclass 1 - d."""
    forest = hace.Hierarchy.from_paths(["animal/dog", "animal/cat", "vehicle/car"])
    logits = torch.tensor([[0.3, -1.0, 0.5]], dtype=torch.float64)
    prob = logits.softmax(1)[0]
    loss = hace_loss(logits, torch.tensor([1]), forest, 0.7, backend=backend.name)
    torch.testing.assert_close(loss, -0.7 * prob[1].log() - 0.3 * (prob[0] + prob[1]).log())


@pytest.mark.parametrize("dilution", [0.2, 0.5, 1.0])
def test_root_over_flat_classes(backend: Backend, dilution: float) -> None:
    """Under a root, flat classes give d times cross-entropy; without it, cross-entropy."""
    logits, target = torch.randn(6, 10, dtype=torch.float64), torch.randint(10, (6,))
    plain, plain_grad = evaluate(cross_entropy, logits, target)
    for rooted, factor in ((True, dilution), (False, 1.0)):
        tree = hierarchy_of(trees.flat(10, rooted))
        loss, grad = evaluate(hace.HACELoss(tree, dilution, backend=backend.name), logits, target)
        torch.testing.assert_close(loss, factor * plain, rtol=1e-13, atol=0)
        torch.testing.assert_close(grad, factor * plain_grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("dilution", [0.2, 0.5, 0.7])
def test_published_dense_code(backend: Backend, rooted: bool, dilution: float) -> None:
    """The published code (softmax over all nodes, P = p R^T, log(P + 1e-6)) gives the same."""
    tree = trees.balanced([4, 3], rooted=rooted)
    reach = torch.from_numpy(tree.in_node_mode().reach().astype(float))
    dilution_matrix = torch.from_numpy(oracle.dilution_weights(tree, dilution))
    labels = torch.arange(tree.num_classes)

    def published(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        prob = logits.softmax(dim=1) @ reach.T
        masses = dilution_matrix[torch.from_numpy(tree.classes)[target]]
        return -(masses * (prob + 1e-6).log()).sum(dim=1).mean()

    logits = 3 * torch.randn(len(labels), tree.num_nodes, dtype=torch.float64)
    logits[0, tree.classes[0]] -= 20
    expected, expected_grad = evaluate(published, logits, labels)
    ours = hace.HACELoss(
        hierarchy_of(tree), dilution, logit_space="nodes", eps=1e-6, backend=backend.name
    )
    loss, grad = evaluate(ours, logits, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-14)


# --- against the oracle ---------------------------------------------------------------------------


@pytest.mark.parametrize("targets", SPACES)
@pytest.mark.parametrize("logit_space", SPACES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_index_targets(
    backend: Backend, tree: trees.Tree, logit_space: str, targets: str, dtype: torch.dtype
) -> None:
    """With target_space="nodes", coarse and fine labels can be mixed."""
    count = tree.num_classes if targets == "classes" else tree.num_nodes
    weight = torch.rand(count).to(oracle.working_dtype(dtype))
    logits = logits_for(tree, 60, logit_space, dtype)
    target = indices_for(tree, 60, targets)
    target[::9] = -100
    for reduction, weighted in itertools.product(REDUCTIONS, (None, weight)):
        check(
            tree,
            logits,
            target,
            logit_space=logit_space,
            target_space=targets,
            reduction=reduction,
            weight=weighted,
            backend=backend.name,
        )


@pytest.mark.parametrize("targets", SPACES)
@pytest.mark.parametrize("logit_space", SPACES)
@pytest.mark.parametrize("smoothing", ["uniform", "others", "nodes"])
@pytest.mark.parametrize("label_smoothing", [0.1, 0.9])
def test_label_smoothing(
    tree: trees.Tree, logit_space: str, targets: str, smoothing: str, label_smoothing: float
) -> None:
    """Mass is spread over classes or nodes, independent of the spaces of logits and targets."""
    count = tree.num_classes if targets == "classes" else tree.num_nodes
    weight = torch.rand(count, dtype=torch.float64)
    target = indices_for(tree, 60, targets)
    target[::9] = -100
    for reduction, weighted in itertools.product(REDUCTIONS, (None, weight)):
        if weighted is not None and smoothing == "nodes" and targets == "classes":
            continue  # refused, since a node that is not a class has no class weight
        check(
            tree,
            logits_for(tree, 60, logit_space),
            target,
            logit_space=logit_space,
            target_space=targets,
            label_smoothing=label_smoothing,
            smoothing=smoothing,
            reduction=reduction,
            weight=weighted,
        )


@pytest.mark.parametrize("targets", SPACES)
@pytest.mark.parametrize("logit_space", SPACES)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_probability_targets(
    rng: np.random.Generator,
    tree: trees.Tree,
    logit_space: str,
    targets: str,
    label_smoothing: float,
) -> None:
    """Probabilities over T targets, where T may differ from the number of logits."""
    count = tree.num_classes if targets == "classes" else tree.num_nodes
    target = torch.from_numpy(rng.dirichlet(np.full(count, 0.3), size=10))
    weight = torch.rand(count, dtype=torch.float64)
    for reduction, weighted in itertools.product(REDUCTIONS, (None, weight)):
        check(
            tree,
            logits_for(tree, 10, logit_space),
            target,
            logit_space=logit_space,
            target_space=targets,
            label_smoothing=label_smoothing,
            reduction=reduction,
            weight=weighted,
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_soft_targets_in_every_dtype(
    rng: np.random.Generator, tree: trees.Tree, dtype: torch.dtype
) -> None:
    target = torch.from_numpy(rng.dirichlet(np.full(tree.num_classes, 0.3), size=10))
    target = target.to(oracle.working_dtype(dtype))
    check(tree, logits_for(tree, 10, dtype=dtype), target, reduction="sum")
    check(
        tree,
        logits_for(tree, 10, dtype=dtype),
        indices_for(tree, 10),
        label_smoothing=0.1,
        reduction="sum",
    )


def test_soft_targets_with_eps(rng: np.random.Generator, tree: trees.Tree) -> None:
    target = torch.from_numpy(rng.dirichlet(np.ones(tree.num_classes), size=10))
    check(tree, logits_for(tree, 10), target, eps=1e-3)
    check(tree, logits_for(tree, 10), indices_for(tree, 10), eps=1e-3, label_smoothing=0.1)
    check(tree, logits_for(tree, 10), indices_for(tree, 10), eps=1e-3)


def test_one_hot_probabilities_are_indices(tree: trees.Tree) -> None:
    logits, index = logits_for(tree, 12), indices_for(tree, 12, "nodes")
    one_hot = torch.nn.functional.one_hot(index, tree.num_nodes).double()
    module = hace.HACELoss(hierarchy_of(tree), target_space="nodes")
    for hard, soft in zip(
        evaluate(module, logits, index), evaluate(module, logits, one_hot), strict=True
    ):
        torch.testing.assert_close(hard, soft, rtol=1e-12, atol=1e-15)


def test_no_mass_on_a_masked_class_is_no_loss(tree: trees.Tree) -> None:
    """0 log 0 = 0, the other documented difference from nn.CrossEntropyLoss, which gives NaN."""
    logits = logits_for(tree, 4)
    leaf = int(tree.leaf_labels()[0])
    logits[:, leaf] = -torch.inf
    target = torch.rand(4, tree.num_classes, dtype=torch.float64)
    target[:, leaf] = 0
    check(tree, logits, target)


@pytest.mark.parametrize("gap", [100.0, 1000.0, 5000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_soft_targets_far_below_the_maximum(gap: float, dtype: torch.dtype) -> None:
    tree = trees.balanced([2, 3, 2])
    logits = logits_for(tree, 6, dtype=torch.float64)
    logits[:2, :6] -= gap
    logits[2:4, 2:4] -= gap
    logits[4:, 11] -= gap
    target = torch.rand(6, 12, dtype=dtype)
    check(tree, logits.to(dtype), target, reduction="sum")


@pytest.mark.parametrize("shape", ["C", "N C d1 d2"])
@pytest.mark.parametrize("kind", ["index", "smoothed", "probability"])
def test_dimensions_are_rows(leafy: trees.Tree, shape: str, kind: str) -> None:
    """(N, C, d1, d2) gives the same as its rows one by one."""
    size = shapes_of(leafy.num_classes)[shape]
    logits = torch.randn(size, dtype=torch.float64)
    batch = size[:1] + size[2:] if len(size) > 1 else ()
    options: dict[str, Any] = {"label_smoothing": 0.1} if kind == "smoothed" else {}
    if kind == "probability":
        target = torch.rand(size, dtype=torch.float64)
        flat_target = target.movedim(1, -1).reshape(-1, size[1]) if batch else target[None]
    else:
        target = torch.randint(leafy.num_classes, batch)
        flat_target = target.reshape(-1)
    rows = logits.movedim(1, -1).reshape(-1, size[1]) if batch else logits[None]
    for reduction in REDUCTIONS:
        module = hace.HACELoss(hierarchy_of(leafy), reduction=reduction, **options)
        loss, grad = evaluate(module, logits, target)
        flat_loss, flat_grad = evaluate(module, rows, flat_target)
        torch.testing.assert_close(loss.reshape(-1), flat_loss.reshape(-1), rtol=1e-13, atol=0)
        assert loss.shape == (torch.Size(batch) if reduction == "none" else torch.Size())
        grad_rows = grad.movedim(1, -1).reshape(flat_grad.shape) if batch else grad[None]
        torch.testing.assert_close(grad_rows, flat_grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["index", "smoothed", "probability"])
def test_gradcheck(rng: np.random.Generator, kind: str) -> None:
    tree = trees.random_tree(rng, 6, roots=2, inner=0.5, shuffle=True)
    options: dict[str, Any] = {"label_smoothing": 0.1} if kind == "smoothed" else {}
    target = indices_for(tree, 3)
    if kind == "probability":
        target = torch.rand(3, tree.num_classes, dtype=torch.float64)
    module = hace.HACELoss(hierarchy_of(tree), **options)
    logits = logits_for(tree, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, target), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: module(x, target), (logits,))


def test_gradient_of_a_target(tree: trees.Tree) -> None:
    """Probabilities that require a gradient get one, by way of the reference."""
    logits = logits_for(tree, 3)
    target = torch.rand(3, tree.num_classes, dtype=torch.float64, requires_grad=True)
    module = hace.HACELoss(hierarchy_of(tree))
    assert torch.autograd.gradcheck(lambda t: module(logits, t), (target,))
