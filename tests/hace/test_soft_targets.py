"""`hace.HACELoss` with soft targets: smoothing, soft labels, probabilities and pairs."""

from __future__ import annotations

import copy
import itertools
import pickle
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import oracle
import pytest
import test_hace_loss
import torch
import trees
from backend import Backend, kernels_give_nan, many_rows
from cases import DTYPES, REDUCTIONS, SPACES, evaluate
from hypothesis import given
from hypothesis import strategies as st
from oracle import Sweep, assert_grad_close, assert_loss_close, to_real
from test_hace_loss import indices_for, logits_for
from test_hace_loss_properties import DILUTIONS, SEEDS, hierarchies, property_test
from torch.nn.functional import cross_entropy, one_hot
from torch.utils._python_dispatch import TorchDispatchMode
from tree_cases import SHAPES, hierarchy_of

import hace
from hace.functional import hace_loss
from hace.weights import HACEWeights

pytestmark = [
    pytest.mark.parity,
    pytest.mark.not_on("gpu", reason="the tensors are made on the CPU"),
]

DISTANCES = ["height", "depth"]


def pairs_for(
    tree: trees.Tree, rows: int, space: str = "classes", count: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    index = indices_for(tree, rows * count, space).view(rows, count)
    index[::4, 1] = index[::4, 0]
    return index, torch.rand(rows, count, dtype=torch.float64).softmax(1)


def probabilities_for(tree: trees.Tree, rows: int, space: str = "classes") -> torch.Tensor:
    count = tree.num_classes if space == "classes" else tree.num_nodes
    raw = torch.rand(rows, count, dtype=torch.float64)
    if space == "nodes":
        raw[:, ~torch.from_numpy(tree.reach().any(axis=1))] = 0
    return raw / raw.sum(1, keepdim=True)


def check(
    tree: trees.Tree, input: torch.Tensor, target: Any, dilution: float = 0.7, **options: Any
) -> None:
    """Compares with the oracle; mass is a product along a path, so it is rounded once per level."""
    roundings = 16 + max(len(tree.path(node)) for node in range(tree.num_nodes))
    test_hace_loss.check(tree, input, target, dilution, roundings=roundings, **options)


# --- against the oracle ---------------------------------------------------------------------------


@pytest.mark.sample(beta=[6.0], logits=["classes"], targets=["nodes"])
@pytest.mark.parametrize("logits", SPACES)
@pytest.mark.parametrize("targets", SPACES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_soft_labels(
    backend: Backend, tree: trees.Tree, logits: str, targets: str, distance: str, beta: float
) -> None:
    count = tree.num_classes if targets == "classes" else tree.num_nodes
    weight = torch.rand(count, dtype=torch.float64)
    target = indices_for(tree, 60, targets)
    target[::9] = -100
    options = {"soft_label_beta": beta, "soft_label_distance": distance}
    for reduction, weighted in (("mean", weight), ("sum", None), ("none", weight)):
        check(
            tree,
            logits_for(tree, 60, logits),
            target,
            logit_space=logits,
            target_space=targets,
            reduction=reduction,
            weight=weighted,
            backend=backend.name,
            **options,
        )


@many_rows
@pytest.mark.thorough_on("reference")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", DISTANCES)
def test_soft_labels_on_every_shape(backend: Backend, shape: str, distance: str) -> None:
    """Heights and depths also count nodes without classes; forests have a virtual root."""
    tree = SHAPES[shape](np.random.default_rng(1))
    for targets, dtype in zip(SPACES, (torch.float64, torch.float32), strict=True):
        target = indices_for(tree, 40, targets)
        check(
            tree,
            logits_for(tree, 40, dtype=dtype),
            target,
            target_space=targets,
            soft_label_beta=6.0,
            soft_label_distance=distance,
            backend=backend.name,
        )


def test_soft_labels_by_hand(backend: Backend) -> None:
    """The forest has trees of heights 2 and 0 under a virtual root of height 3 and depth 0."""
    paths = ["animal/dog/husky", "animal/dog/pug", "animal/cat", "car"]
    forest = hace.Hierarchy.from_paths(paths)
    shares = {
        "height": [[0, 1, 2, 3], [1, 0, 2, 3], [2, 2, 0, 3], [3, 3, 3, 0]],
        "depth": [[0, 1, 2, 3], [1, 0, 2, 3], [2, 2, 0, 3], [3, 3, 3, 0]],
    }
    logits = torch.randn(4, 4, dtype=torch.float64)
    for distance, steps in shares.items():
        far = torch.tensor(steps, dtype=torch.float64) / 3
        target = (-5 * far).softmax(1)
        soft = hace_loss(
            logits,
            torch.arange(4),
            forest,
            soft_label_beta=5.0,
            soft_label_distance=distance,
            backend=backend.name,
        )
        dense = hace_loss(logits, target, forest, backend=backend.name)
        torch.testing.assert_close(soft, dense, rtol=1e-14, atol=0)


def test_soft_labels_of_an_inner_class(backend: Backend) -> None:
    """It is at distance 0 from itself, and at its node's height from classes below the node."""
    tree = hace.Hierarchy.from_paths(["a/b", "a/b/c", "a/b/d", "a/e"])  # depths 1, 2, 2, 1
    logits = torch.randn(1, 4, dtype=torch.float64)
    far = {"height": [0.0, 0.5, 0.5, 1.0], "depth": [0.0, 0.5, 0.5, 1.0]}
    for distance, expected in far.items():
        target = (-3 * torch.tensor([expected], dtype=torch.float64)).softmax(1)
        options = {"soft_label_distance": distance, "backend": backend.name}
        soft = hace_loss(logits, torch.tensor([0]), tree, soft_label_beta=3.0, **options)
        dense = hace_loss(logits, target, tree, backend=backend.name)
        torch.testing.assert_close(soft, dense, rtol=1e-14, atol=0)


@pytest.mark.sample(form=["pair"], distance=["depth"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("form", ["index", "pair"])
def test_smoothed_soft_labels(
    backend: Backend, tree: trees.Tree, form: str, smoothing: str, distance: str
) -> None:
    """Smoothing applies to the distribution of the soft labels."""
    weight = torch.rand(tree.num_classes, dtype=torch.float64)
    target = indices_for(tree, 30) if form == "index" else pairs_for(tree, 30)
    for epsilon, weighted in ((0.1, None), (0.6, weight)):
        check(
            tree,
            logits_for(tree, 30),
            target,
            soft_label_beta=4.0,
            soft_label_distance=distance,
            label_smoothing=epsilon,
            smoothing=smoothing,
            weight=weighted,
            backend=backend.name,
        )


@many_rows
@pytest.mark.parametrize("smoothing", ["uniform", "others"])
def test_smoothed_soft_labels_of_coarse_targets(
    backend: Backend, tree: trees.Tree, smoothing: str
) -> None:
    """The same holds for a target that is not a class, whose soft labels are all classes."""
    check(
        tree,
        logits_for(tree, 60),
        indices_for(tree, 60, "nodes"),
        target_space="nodes",
        soft_label_beta=4.0,
        label_smoothing=0.1,
        smoothing=smoothing,
        backend=backend.name,
    )


@pytest.mark.sample(logits=["nodes"], targets=["classes"], smoothing=["others"])
@pytest.mark.parametrize("logits", SPACES)
@pytest.mark.parametrize("targets", SPACES)
@pytest.mark.parametrize("smoothing", [None, "uniform", "others"])
@pytest.mark.parametrize("form", ["pair", "probabilities"])
def test_pairs_and_probabilities(
    backend: Backend,
    tree: trees.Tree,
    form: str,
    smoothing: str | None,
    targets: str,
    logits: str,
) -> None:
    count = tree.num_classes if targets == "classes" else tree.num_nodes
    weight = torch.rand(count, dtype=torch.float64)
    target: Any = pairs_for(tree, 30, targets)
    if form == "probabilities":
        target = probabilities_for(tree, 30, targets)
    else:
        target[0][::5, 0] = -100
    options = {"label_smoothing": 0.1, "smoothing": smoothing} if smoothing else {}
    for reduction, weighted in (("mean", weight), ("sum", None), ("none", weight)):
        check(
            tree,
            logits_for(tree, 30, logits),
            target,
            logit_space=logits,
            target_space=targets,
            reduction=reduction,
            weight=weighted,
            backend=backend.name,
            **options,
        )


@many_rows
@pytest.mark.thorough_on("reference")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["smoothed", "soft", "pair", "probabilities"])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_dtypes(
    backend: Backend, tree: trees.Tree, form: str, eps: float, dtype: torch.dtype
) -> None:
    """A float32 weight and target work with logits of any dtype."""
    target: Any = indices_for(tree, 20)
    options: dict[str, Any] = {"weight": torch.rand(tree.num_classes)}
    if form == "pair":
        index, weight = pairs_for(tree, 20)
        target = (index, weight.float())
    elif form == "probabilities":
        target = probabilities_for(tree, 20).float()
    elif form == "soft":
        options["soft_label_beta"] = 5.0
    else:
        options["label_smoothing"] = 0.1
    check(
        tree,
        logits_for(tree, 20, dtype=dtype),
        target,
        backend=backend.name,
        reduction="sum",
        eps=eps,
        **options,
    )


@property_test
@given(
    hierarchies(),
    SEEDS,
    DILUTIONS,
    st.one_of(st.none(), st.floats(0, 50)),
    st.sampled_from(DISTANCES),
    st.floats(0, 0.5),  # above an even share, the others' mass cancels the target's
    st.sampled_from(["uniform", "others"]),
)
def test_random_trees(
    tree: trees.Tree,
    seed: int,
    dilution: float,
    beta: float | None,
    distance: str,
    epsilon: float,
    smoothing: str,
) -> None:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"soft_label_beta": beta, "soft_label_distance": distance}
    options |= {"label_smoothing": epsilon, "smoothing": smoothing}
    weight = torch.rand(tree.num_classes, dtype=torch.float64)
    for target in (indices_for(tree, 4), pairs_for(tree, 4)):
        check(tree, logits_for(tree, 4), target, dilution, weight=weight, **options)


@pytest.mark.sample(smoothing=["others"], kind=["index"], dilution=[0.7])
@pytest.mark.parametrize("kind", ["index", "pair", "probabilities"])
@pytest.mark.parametrize("dilution", [0.7, 1.0])
@pytest.mark.parametrize("smoothing", ["others", "nodes"])
def test_a_target_that_is_spared_all_mass_has_none(
    backend: Backend, tree: trees.Tree, smoothing: str, dilution: float, kind: str
) -> None:
    """So its logit may be −inf, and also the logits of all classes below a node without mass."""
    classes = tree.num_classes
    logits = logits_for(tree, classes).masked_fill(torch.eye(classes, dtype=torch.bool), -np.inf)
    index = torch.arange(classes)
    options = {"label_smoothing": 1.0, "smoothing": smoothing, "backend": backend.name}
    for dtype in (torch.float32, torch.float64):
        z = logits.to(dtype)
        if kind == "index":
            check(tree, z, index, dilution, **options)
        elif kind == "probabilities":
            check(tree, z, one_hot(index, classes).to(dtype), dilution, **options)
        else:
            # 0.1 + 0.2 + 0.7 is 1 up to rounding, and the rounding error must not remain as mass.
            loss = hace.HACELoss(hierarchy_of(tree), dilution, reduction="none", **options)
            weights = torch.tensor([0.1, 0.2, 0.7], dtype=dtype).expand(classes, 3)
            found = loss(z, (index[:, None].expand(classes, 3), weights))
            torch.testing.assert_close(found, loss(z, index), rtol=1e-6, atol=0)


# --- identities -----------------------------------------------------------------------------------


@many_rows
@pytest.mark.parametrize("targets", SPACES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mixup_is_the_mix_of_its_losses(
    backend: Backend, tree: trees.Tree, reduction: str, targets: str
) -> None:
    """The share of each row is in the weights of its pair."""
    module = hace.HACELoss(
        hierarchy_of(tree), target_space=targets, reduction=reduction, backend=backend.name
    )
    logits, one = logits_for(tree, 12), indices_for(tree, 12, targets)
    two = one.flip(0)
    share = torch.rand(12, dtype=torch.float64) if reduction == "none" else torch.tensor(0.3)
    share = share.double().expand(12)
    pair = (torch.stack([one, two], 1), torch.stack([share, 1 - share], 1))
    mixed, mixed_grad = evaluate(module, logits, pair)
    parts = [evaluate(module, logits, target) for target in (one, two)]
    shares = (share, 1 - share) if reduction == "none" else (share[0], 1 - share[0])
    loss = sum(part[0] * weight for part, weight in zip(parts, shares, strict=True))
    grads = zip(parts, (share, 1 - share), strict=True)
    grad = sum(part[1] * weight[:, None] for part, weight in grads)
    torch.testing.assert_close(mixed, loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(mixed_grad, grad, rtol=1e-11, atol=1e-15)


@many_rows
@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("beta", [None, 5.0])
def test_smoothing_is_linear(
    backend: Backend, tree: trees.Tree, smoothing: str, beta: float | None
) -> None:
    """L(ε) = (1 − ε) L(0) + ε L(1), down to ε = 1e-9, where it equals the hard loss."""
    logits, target = logits_for(tree, 12), indices_for(tree, 12)

    def rows(epsilon: float) -> torch.Tensor:
        return hace_loss(
            logits,
            target,
            hierarchy_of(tree),
            label_smoothing=epsilon,
            smoothing=smoothing,
            soft_label_beta=beta,
            reduction="none",
            backend=backend.name,
        )

    for epsilon in (1e-9, 1e-3, 0.3, 0.9):
        mixed = (1 - epsilon) * rows(0.0) + epsilon * rows(1.0)
        torch.testing.assert_close(rows(epsilon), mixed, rtol=1e-13, atol=0)
    torch.testing.assert_close(rows(1e-9), rows(0.0), rtol=1e-7, atol=0)
    assert not torch.equal(rows(1e-3), rows(0.0))


@many_rows
@pytest.mark.parametrize("distance", DISTANCES)
def test_sharp_soft_labels_are_hard(backend: Backend, tree: trees.Tree, distance: str) -> None:
    """This holds for leaves and, with distances by depth, for every class."""
    logits, target = logits_for(tree, 40), indices_for(tree, 40)
    if distance == "height":
        leaves = torch.from_numpy(tree.leaf_labels())
        target = leaves[target % len(leaves)]
    options: dict[str, Any] = {"reduction": "none", "backend": backend.name}
    hard = evaluate(hace.HACELoss(hierarchy_of(tree), **options), logits, target)
    module = hace.HACELoss(
        hierarchy_of(tree), soft_label_beta=1e5, soft_label_distance=distance, **options
    )
    for found, expected in zip(evaluate(module, logits, target), hard, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@many_rows
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("targets", SPACES)
def test_flat_soft_labels_are_full_smoothing(
    backend: Backend, tree: trees.Tree, targets: str, distance: str
) -> None:
    """With β = 0, every target is 1/C on every class, as with ε = 1."""
    logits, target = logits_for(tree, 20), indices_for(tree, 20, targets)
    options: dict[str, Any] = {"target_space": targets, "backend": backend.name}
    flat = hace.HACELoss(
        hierarchy_of(tree), soft_label_beta=0.0, soft_label_distance=distance, **options
    )
    smooth = hace.HACELoss(hierarchy_of(tree), label_smoothing=1.0, **options)
    even = torch.full((20, tree.num_classes), 1 / tree.num_classes, dtype=torch.float64)
    dense = hace.HACELoss(hierarchy_of(tree), backend=backend.name)
    expected = evaluate(dense, logits, even)
    for module in (flat, smooth):
        for found, exact in zip(evaluate(module, logits, target), expected, strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-16)


@many_rows
@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("targets", SPACES)
def test_one_hot_pair_and_index_are_the_same(
    backend: Backend, tree: trees.Tree, targets: str, smoothing: str
) -> None:
    count = tree.num_classes if targets == "classes" else tree.num_nodes
    logits, index = logits_for(tree, 20), indices_for(tree, 20, targets)
    module = hace.HACELoss(
        hierarchy_of(tree),
        target_space=targets,
        label_smoothing=0.2,
        smoothing=smoothing,
        backend=backend.name,
    )
    expected = evaluate(module, logits, index)
    for target in (
        one_hot(index, count).double(),
        (index[:, None], torch.ones(20, 1)),
        (index[:, None].repeat(1, 4), torch.full((20, 4), 0.25)),
    ):
        for found, exact in zip(evaluate(module, logits, target), expected, strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-16)


@many_rows
@pytest.mark.parametrize("shape", [(7,), (), (3, 4), (2, 3, 2), (0,)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_is_cross_entropy_at_dilution_one(
    backend: Backend,
    leafy: trees.Tree,
    shape: tuple[int, ...],
    reduction: str,
    weighted: bool,
) -> None:
    """This holds for smoothed indices, and for a pair compared with the same probabilities."""
    count = leafy.num_classes
    logits = torch.randn((*shape[:1], count, *shape[1:]), dtype=torch.float64)
    dim = min(1, len(shape))
    weight = torch.rand(count, dtype=torch.float64) if weighted else None
    target = torch.randint(count, shape)
    if target.numel() > 1:
        target.view(-1)[::4] = 3
    options: dict[str, Any] = {"weight": weight, "reduction": reduction, "label_smoothing": 0.15}
    ignoring = {**options, "ignore_index": 3}
    index = torch.randint(count, (*shape[:1], 2, *shape[1:]))
    share = torch.rand(index.shape, dtype=torch.float64).softmax(dim)
    dense = torch.zeros_like(logits).scatter_add(dim, index, share)
    ours = hace.HACELoss(hierarchy_of(leafy), 1.0, backend=backend.name, **ignoring)
    pairwise = hace.HACELoss(hierarchy_of(leafy), 1.0, backend=backend.name, **options)
    plain = torch.nn.CrossEntropyLoss(**ignoring)
    of_dense = torch.nn.CrossEntropyLoss(**options)
    incoming = torch.randn(shape if reduction == "none" else (), dtype=torch.float64)
    found = [*evaluate(ours, logits, target, incoming)]
    found += evaluate(pairwise, logits, (index, share), incoming)
    expected = [*evaluate(plain, logits, target, incoming)]
    expected += evaluate(of_dense, logits, dense, incoming)
    for one, two in zip(found, expected, strict=True):
        assert one.shape == two.shape
        largest = max(two.abs().nan_to_num(0).flatten().tolist(), default=0.0)
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-14 * largest, equal_nan=True)


@property_test
@given(hierarchies(), SEEDS, DILUTIONS, st.floats(0, 20), st.sampled_from(DISTANCES))
def test_soft_labels_do_not_depend_on_names_or_columns(
    tree: trees.Tree, seed: int, dilution: float, beta: float, distance: str
) -> None:
    """Nor on a constant in the logits. Losses are not negative; a row's gradient sums to 0."""
    torch.manual_seed(seed)
    logits, target = logits_for(tree, 5), indices_for(tree, 5)
    generator = np.random.default_rng(seed)
    ids, order = generator.permutation(tree.num_nodes), generator.permutation(tree.num_classes)
    parents = np.full(tree.num_nodes, -1)
    parents[ids] = np.where(tree.parents < 0, -1, ids[tree.parents])
    moved = trees.Tree(parents, ids[tree.classes[order]])
    columns, label = torch.from_numpy(order), torch.from_numpy(np.argsort(order))

    def rows(tree: trees.Tree, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {"soft_label_beta": beta, "soft_label_distance": distance}
        return hace_loss(logits, target, hierarchy_of(tree), dilution, reduction="none", **options)

    logits.requires_grad_()
    loss = rows(tree, logits, target)
    assert (loss >= 0).all()
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.sum(1).abs().max() <= 1e-14
    tolerance = {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(rows(moved, logits[:, columns], label[target]), loss, **tolerance)
    torch.testing.assert_close(rows(tree, logits + 100, target), loss, rtol=1e-11, atol=1e-11)


# --- shapes ---------------------------------------------------------------------------------------


@many_rows
@pytest.mark.parametrize("shape", [(), (6,), (0,), (2, 3, 2), (2, 0)], ids=str)
@pytest.mark.parametrize("form", ["soft", "pair", "no pair", "probabilities over nodes"])
def test_dimensions_are_rows(
    backend: Backend, tree: trees.Tree, form: str, shape: tuple[int, ...]
) -> None:
    """(C) and (N, C, d1, d2) give the same as their rows one by one."""
    dim = min(1, len(shape))
    logits = torch.randn((*shape[:1], tree.num_classes, *shape[1:]), dtype=torch.float64)
    options: dict[str, Any] = (
        {"soft_label_beta": 4.0} if form == "soft" else {"label_smoothing": 0.1}
    )
    space = "nodes" if form == "probabilities over nodes" else "classes"

    def to_rows(x: torch.Tensor) -> torch.Tensor:
        return x.movedim(dim, -1).reshape(-1, x.shape[dim])

    if form == "soft":
        target: Any = torch.randint(tree.num_classes, shape)
        flat: Any = target.reshape(-1)
    elif form == "probabilities over nodes":
        target = torch.rand((*shape[:1], tree.num_nodes, *shape[1:]), dtype=torch.float64)
        flat = to_rows(target)
    else:
        count = 3 if form == "pair" else 0
        index = torch.randint(tree.num_classes, (*shape[:1], count, *shape[1:]))
        target = (index, torch.rand(index.shape, dtype=torch.float64))
        flat = tuple(part.movedim(dim, -1).reshape(int(np.prod(shape)), count) for part in target)
    for reduction in REDUCTIONS:
        module = hace.HACELoss(
            hierarchy_of(tree),
            target_space=space,
            reduction=reduction,
            backend=backend.name,
            **options,
        )
        loss, grad = evaluate(module, logits, target)
        flat_loss, flat_grad = evaluate(module, to_rows(logits), flat)
        assert loss.shape == (torch.Size(shape) if reduction == "none" else torch.Size())
        torch.testing.assert_close(loss.reshape(-1), flat_loss.reshape(-1), equal_nan=True)
        torch.testing.assert_close(to_rows(grad), flat_grad, rtol=1e-12, atol=1e-15)


# --- size -----------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for output in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(output, torch.Tensor):
                self.elements = max(self.elements, output.numel())
        return result


@many_rows
@pytest.mark.parametrize("distance", DISTANCES)
def test_soft_labels_of_100_000_classes(backend: Backend, distance: str) -> None:
    """Memory is a few numbers per node, not C × C; the shares are known from the digits."""
    tree = trees.balanced([10] * 5, rooted=True)
    classes, nodes = tree.num_classes, tree.num_nodes
    hierarchy = hierarchy_of(tree)
    tracemalloc.start()
    module = hace.HACELoss(
        hierarchy,
        soft_label_beta=8.0,
        soft_label_distance=distance,
        reduction="none",
        backend=backend.name,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * nodes, f"tables took {peak / 1e6:.0f} MB"

    labels = torch.tensor([0, 54_321])
    logits = 2 * torch.randn(2, classes)
    with LargestTensor() as largest:
        loss, grad = evaluate(module, logits, labels)
    assert largest.elements <= 4 * len(labels) * nodes

    # A class is named by five digits; classes that share the first k digits meet at height 5 - k.
    digits = np.arange(classes)[:, None] // 10 ** np.arange(4, -1, -1) % 10
    shared = (digits[labels.numpy()][:, None] == digits).cumprod(axis=2).sum(axis=2)
    near = np.exp(-oracle.REAL(8) * (5 - shared) / 5)
    sweep = Sweep(tree)
    mass = sweep.on_nodes(near / near.sum(axis=1, keepdims=True))
    keep = np.where(tree.parents < 0, 1, 0.7)
    answer = sweep.log_loss(logits, sweep.risen(mass, keep))
    assert_loss_close(loss, answer, torch.float32, 32)
    assert_grad_close(grad, answer, roundings=32)


# --- the module -----------------------------------------------------------------------------------


def soft_modules(tree: trees.Tree, **options: Any) -> dict[str, tuple[torch.nn.Module, Any]]:
    """A module of each kind, with a target for 6 rows."""
    hierarchy = hierarchy_of(tree)
    weight = torch.rand(tree.num_classes)
    return {
        "smoothed": (
            hace.HACELoss(hierarchy, label_smoothing=0.1, weight=weight, **options),
            indices_for(tree, 6),
        ),
        "soft": (
            hace.HACELoss(hierarchy, soft_label_beta=4.0, soft_label_distance="depth", **options),
            indices_for(tree, 6),
        ),
        "pair": (hace.HACELoss(hierarchy, weight=weight, **options), pairs_for(tree, 6)),
        "probabilities": (hace.HACELoss(hierarchy, **options), probabilities_for(tree, 6)),
    }


@pytest.mark.parametrize("kind", ["smoothed", "soft", "pair", "probabilities"])
def test_compiled(tree: trees.Tree, kind: str) -> None:
    """Forward and backward of the module are one graph, with the backend that `auto` chooses."""
    torch._dynamo.reset()
    module, target = soft_modules(tree)[kind]
    logits = logits_for(tree, 6, dtype=torch.float32)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = [evaluate(loss_fn, logits, target) for loss_fn in (module, compiled)]
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["smoothed", "soft", "pair", "probabilities"])
def test_copies(tree: trees.Tree, kind: str) -> None:
    module, target = soft_modules(tree, reduction="none")[kind]
    logits = logits_for(tree, 6, dtype=torch.float32)
    for duplicate in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(duplicate(logits, target), module(logits, target))


def test_repr_names_soft_labels(tree: trees.Tree) -> None:
    text = repr(hace.HACELoss(hierarchy_of(tree), soft_label_beta=4.5, soft_label_distance="depth"))
    assert "soft_label_beta=4.5" in text
    assert "depth" in text


@many_rows
def test_weight_may_change_afterwards(backend: Backend, tree: trees.Tree) -> None:
    """Nothing derived from the weight is stored, so loading or moving it has an effect at once."""
    for kind, (module, target) in soft_modules(tree, backend=backend.name, reduction="sum").items():
        if module.weight is None:
            assert kind in ("soft", "probabilities")
            continue
        logits = logits_for(tree, 6)
        before = module(logits, target)
        module.weight.mul_(2)
        torch.testing.assert_close(module(logits, target), 2 * before)


@many_rows
def test_weight_may_have_any_strides(backend: Backend, tree: trees.Tree) -> None:
    weight = torch.rand(tree.num_classes, 2, dtype=torch.float64)[:, 1]
    logits = logits_for(tree, 6)
    for module, target in soft_modules(tree, backend=backend.name).values():
        module.weight = weight.contiguous()
        expected = module(logits, target)
        module.weight = weight
        assert torch.equal(module(logits, target), expected)


@many_rows
def test_derivative_after_its_transform_has_ended(backend: Backend, tree: trees.Tree) -> None:
    """Class weights make a table in each call; the one of a nested transform has to outlive it."""
    for kind, (module, target) in soft_modules(tree, backend=backend.name, reduction="sum").items():
        logits, direction = logits_for(tree, 6), torch.randn(6, tree.num_classes).double()
        _, pull = torch.func.vjp(torch.func.grad(partial(module, target=target)), logits)
        x = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(x, target), x, create_graph=True)
        (expected,) = torch.autograd.grad(gradient, x, direction)
        torch.testing.assert_close(pull(direction)[0], expected, msg=kind)


@pytest.mark.parametrize("kind", ["smoothed", "soft", "pair", "probabilities"])
def test_autocast(tree: trees.Tree, kind: str) -> None:
    """Layers return bfloat16, the loss is float32, and gradients reach float32 parameters."""
    module, target = soft_modules(tree)[kind]
    layer = torch.nn.Linear(8, tree.num_classes)
    features = torch.randn(6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(features)
        assert logits.dtype == torch.bfloat16
        loss = module(logits, target)
    assert loss.dtype == torch.float32
    exact = module(logits.double(), target).float()
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=0)
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().sum() > 0


@many_rows
def test_gradient_of_a_pair_s_weights(backend: Backend, rng: np.random.Generator) -> None:
    """Mixing weights can be learnt, by way of the reference, whatever the logits require."""
    tree = trees.random_tree(rng, 6, roots=2, inner=0.3, shuffle=True)
    index, weight = pairs_for(tree, 4)
    module = hace.HACELoss(hierarchy_of(tree), label_smoothing=0.1, backend=backend.name)
    logits = logits_for(tree, 4)
    for leaf in (logits, logits.clone().requires_grad_()):
        assert torch.autograd.gradcheck(
            lambda z, w: module(z, (index, w)), (leaf, weight.clone().requires_grad_())
        )


@many_rows
def test_gradient_of_probabilities_is_that_of_cross_entropy(
    backend: Backend, leafy: trees.Tree
) -> None:
    """This holds also where they are 0; there it says what mass on that class would cost."""
    logits = logits_for(leafy, 4)
    target = one_hot(indices_for(leafy, 4), leafy.num_classes).double().requires_grad_()
    ours = hace.HACELoss(hierarchy_of(leafy), 1.0, backend=backend.name)(logits, target)
    (found,) = torch.autograd.grad(ours, target)
    (expected,) = torch.autograd.grad(cross_entropy(logits, target), target)
    torch.testing.assert_close(found, expected)


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ((torch.zeros(4, 2, dtype=torch.long),), ValueError),
        ((torch.zeros(4, 2, dtype=torch.long), torch.ones(4, 2), torch.ones(4, 2)), ValueError),
        ((torch.zeros(4, dtype=torch.long), torch.ones(4)), ValueError),
        ((torch.zeros(4, 2, dtype=torch.long), torch.ones(4, 3)), ValueError),
        ((torch.zeros(3, 2, dtype=torch.long), torch.ones(3, 2)), ValueError),
        ((torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4)), ValueError),
        ((torch.zeros(4, 2, 1, dtype=torch.long), torch.ones(4, 2, 1)), ValueError),
        ((torch.ones(4, 2), torch.zeros(4, 2, dtype=torch.long)), TypeError),
        ((torch.zeros(4, 2, dtype=torch.int32), torch.ones(4, 2)), TypeError),
        ((torch.zeros(4, 2, dtype=torch.long), torch.ones(4, 2, dtype=torch.long)), TypeError),
    ],
    ids=["one", "three", "1-d", "widths", "rows", "transposed", "3-d", "swapped", "int32", "int"],
)
def test_pairs_that_do_not_fit(tree: trees.Tree, target: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"pair|tuple"):
        hace_loss(logits_for(tree, 4), target, hierarchy_of(tree))


@kernels_give_nan
@pytest.mark.parametrize("bad", [-1, 10**12])
@pytest.mark.parametrize("targets", SPACES)
@pytest.mark.parametrize("options", [{}, {"soft_label_beta": 3.0}], ids=["pair", "soft pair"])
def test_index_out_of_range_in_a_pair(
    backend: Backend, tree: trees.Tree, options: dict[str, Any], targets: str, bad: int
) -> None:
    index, weight = pairs_for(tree, 4, targets)
    index[2, 1] = bad
    with pytest.raises(IndexError, match=rf"{bad}\b.*row 2"):
        hace_loss(
            logits_for(tree, 4),
            (index, weight),
            hierarchy_of(tree),
            target_space=targets,
            backend=backend.name,
            **options,
        )


@kernels_give_nan
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"soft_label_beta": 2.0}], ids=str
)
def test_node_with_no_class_below_it_in_a_pair(backend: Backend, options: dict[str, Any]) -> None:
    tree = hace.Hierarchy.from_parents([-1, 0, 0, 2, 0], classes=[1, 4])
    logits = torch.randn(3, 2)
    arguments: dict[str, Any] = {"target_space": "nodes", "backend": backend.name, **options}
    index, weight = torch.tensor([[0, 1], [1, 4], [4, 4]]), torch.ones(3, 2)
    assert hace_loss(logits, (index, weight), tree, **arguments).isfinite()
    for empty in (2, 3):
        index[1, 1] = empty
        with pytest.raises(IndexError, match=rf"\b{empty} of row 1\b"):
            hace_loss(logits, (index, weight), tree, **arguments)


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
def test_beta_out_of_range(tree: trees.Tree, beta: float) -> None:
    with pytest.raises(ValueError, match="soft_label_beta"):
        hace.HACELoss(hierarchy_of(tree), soft_label_beta=beta)


def test_options_that_exclude_each_other(tree: trees.Tree) -> None:
    logits, pair = logits_for(tree, 4), pairs_for(tree, 4)
    with pytest.raises(ValueError, match="soft_label_beta"):
        hace_loss(logits, probabilities_for(tree, 4), hierarchy_of(tree), soft_label_beta=2.0)
    with pytest.raises(ValueError, match="ignore_index"):
        hace_loss(logits, pair, hierarchy_of(tree), ignore_index=2)


# --- the tests' own oracle ------------------------------------------------------------------------


def test_mass_of_soft_labels_sums_to_one(tree: trees.Tree) -> None:
    for distance, beta in itertools.product(DISTANCES, (0.0, 3.0, 1e3)):
        shares = oracle.soft_label_shares(tree.labels(), beta, distance).astype(float)
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
        mass, _ = oracle.target_mass(
            tree, indices_for(tree, 9), soft_label_beta=beta, soft_label_distance=distance
        )
        np.testing.assert_allclose(mass.sum(1).astype(float), 1, rtol=1e-12)


def test_sweep_is_the_dense_formula(tree: trees.Tree) -> None:
    logits = logits_for(tree, 7)
    mass, _ = oracle.target_mass(tree, pairs_for(tree, 7))
    tree = tree.labels()
    keep = HACEWeights(0.7).keep(tree.parents >= 0)
    sweep = Sweep(tree)
    q = sweep.risen(mass, keep)
    np.testing.assert_allclose(
        q.astype(float), (mass @ oracle.dilution_weights(tree, 0.7)).astype(float), rtol=1e-12
    )
    dense, swept = oracle.node_log_loss(logits, tree.reach(), q), sweep.log_loss(logits, q)
    for name in ("loss", "grad", "loss_scale", "grad_scale", "gap"):
        one, two = getattr(dense, name).astype(float), getattr(swept, name).astype(float)
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-16)
    x = to_real(torch.randn(3, tree.num_classes))
    up = sweep.up(sweep.on_nodes(x))
    np.testing.assert_allclose(
        up.astype(float), (x @ tree.reach().T).astype(float), rtol=1e-12, atol=1e-15
    )
