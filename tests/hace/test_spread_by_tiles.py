"""Targets spread over all classes, by tiles, agree with the oracle and with whole logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
import tree_cases
import trees
from backend import Backend
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

import hace
from hace.nn import HierarchicalClassifier
from hace_kernels.linear import columns

FEATURES = 5

#: The kinds of targets, each with its options.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "smoothed": ("index", {"label_smoothing": 0.1}),
    "smoothed alone": ("index", {"label_smoothing": 1.0}),
    "smoothed over others": ("index", {"label_smoothing": 0.2, "smoothing": "others"}),
    "smoothed over nodes": ("index", {"label_smoothing": 0.9, "smoothing": "nodes"}),
    "smoothed nodes": ("index", {"label_smoothing": 0.3, "target_space": "nodes"}),
    "smoothed pairs": ("pairs", {"label_smoothing": 0.1}),
    "soft": ("index", {"soft_label_beta": 5.0}),
    "soft by depth": ("index", {"soft_label_beta": 5.0, "soft_label_distance": "depth"}),
    "soft and smoothed": (
        "index",
        {"soft_label_beta": 3.0, "label_smoothing": 0.2, "smoothing": "others"},
    ),
    "soft nodes": ("index", {"soft_label_beta": 4.0, "target_space": "nodes"}),
    "soft pairs": ("pairs", {"soft_label_beta": 5.0}),
    "probabilities": ("probabilities", {}),
    "smoothed probabilities": ("probabilities", {"label_smoothing": 0.1}),
    "probabilities over others": (
        "probabilities",
        {"label_smoothing": 0.1, "smoothing": "others"},
    ),
}


def narrow(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Sets the number of classes per tile."""
    monkeypatch.setattr(columns, "tile_width", lambda *shape: width)


def layer(rows: int, num_columns: int, dtype: torch.dtype, scale: float = 1.0) -> list[Any]:
    """Input, weight and bias."""
    shapes = [(rows, FEATURES), (num_columns, FEATURES), (num_columns,)]
    return [(scale * torch.randn(shape)).to(dtype).requires_grad_() for shape in shapes]


def targets(case: tree_cases.TreeCase, rows: int, kind: str, space: str = "classes") -> Any:
    if kind == "probabilities":
        return case.probabilities(rows, space)
    if kind == "pairs":
        index, share = case.pairs(rows, 3, space)
        index[0, 0] = -100
        index[1] = -100
        return index, share
    target = case.targets(rows, space)
    target[2] = -100
    return target


def check(
    case: tree_cases.TreeCase,
    dtype: torch.dtype,
    kind: str,
    *,
    scale: float = 1.0,
    bias: torch.Tensor | None = None,
    rows: int = 7,
    backend: Backend | None = None,
) -> None:
    """Compares loss and gradients by tiles with the 80-bit oracle."""
    how, of_kind = KINDS[kind]
    parts = layer(rows, case.num_classes, dtype, scale)
    if bias is not None:
        parts[2] = bias.to(dtype).requires_grad_()
    target = targets(case, rows, how, of_kind.get("target_space", "classes"))
    name, device = ("auto", "cpu") if backend is None else (backend.name, backend.device)
    loss_fn = hace.HACELoss(case.hierarchy, 0.6, reduction="none", backend=name, **of_kind)
    incoming = torch.rand(rows, dtype=dtype)
    there = tuple(x.to(device) for x in target) if how == "pairs" else target.to(device)
    x, weight, b = (part.to(device) for part in parts)
    loss = loss_fn.linear(x, weight, there, b, logit_bytes=0)
    grads = torch.autograd.grad(loss, parts, incoming.to(device))

    x, weight, b = (oracle.to_real(part) for part in parts)
    unit = oracle.ROUNDOFF[dtype]
    finite = np.where(np.isfinite(b), b, 0)
    z_error = 8 * unit * (np.abs(x) @ np.abs(weight).T + np.abs(finite)).max(1)
    answer, _ = oracle.hace(case.tree, x @ weight.T + b, target, 0.6, **of_kind)
    answer = oracle.reduce(answer, "none", incoming=incoming)
    wanted = answer.grad
    slack = (32 * unit + 2 * z_error[:, None]) * answer.grad_scale
    for found, true, bound in (
        (loss, answer.loss, answer.loss_scale * (32 * unit + 2 * z_error)),
        (grads[0], wanted @ weight, slack @ np.abs(weight)),
        (grads[1], wanted.T @ x, slack.T @ np.abs(x)),
        (grads[2], wanted.sum(0), slack.sum(0)),
    ):
        value = oracle.to_real(found)
        same = (value == true) | (np.isnan(value) & np.isnan(true))
        with np.errstate(invalid="ignore"):
            right = same | (np.abs(value - true) <= bound + oracle.UNDERFLOW[dtype])
        assert right.all(), (value[~right], true[~right], bound[~right])


#: One kind for each way in which classes get mass.
WAYS = ["smoothed over nodes", "soft and smoothed", "smoothed probabilities"]


@pytest.mark.parametrize("shape", tree_cases.SHAPES)
def test_every_shape(shape: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tree_cases.TreeCase(tree_cases.SHAPES[shape](rng))
    for kind in ("smoothed", *WAYS):
        narrow(monkeypatch, 1 if kind == "smoothed" else 7)
        check(case, torch.float32, kind)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, torch.float32) for kind in KINDS),
        *(
            pytest.param(kind, torch.float64, marks=() if kind in WAYS else pytest.mark.thorough)
            for kind in KINDS
        ),
    ],
    ids=str,
)
def test_every_kind_and_width(
    kind: str, dtype: torch.dtype, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = tree_cases.TreeCase(tree_cases.SHAPES["shuffled inner classes"](rng))
    for width in (1, 7, case.num_classes - 1, case.num_classes, case.num_classes + 5):
        narrow(monkeypatch, width)
        check(case, dtype, kind)


@pytest.mark.parametrize("scale", [10.0, 70.0])
def test_large_logits(
    scale: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 7)
    case = tree_cases.TreeCase(tree_cases.SHAPES["shuffled"](rng))
    for kind in ("smoothed", "smoothed over others", *WAYS):
        check(case, torch.float64, kind, scale=scale)
        check(case, torch.float32, kind, scale=scale)


@pytest.mark.parametrize("kind", [*WAYS, "smoothed pairs"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_classes_without_mass(
    kind: str, dtype: torch.dtype, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole tiles, whole subtrees, all classes, or all but one are −inf or far below."""
    case = tree_cases.TreeCase(tree_cases.SHAPES["balanced forest"](rng))
    for first, last, low in (
        (4, 12, -torch.inf),
        (0, 23, -1e4),
        (5, 6, -torch.inf),
        (0, 24, -torch.inf),
    ):
        bias = torch.randn(24)
        bias[first:last] = low
        for width in (3, 7):
            narrow(monkeypatch, width)
            check(case, dtype, kind, bias=bias)


def test_classes_that_get_nothing_may_be_without_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 log 0 is 0 for classes whose weight is 0 and for nodes that keep no mass."""
    narrow(monkeypatch, 3)
    tree = tree_cases.hierarchy_of(trees.balanced([4, 4]))
    weight = torch.ones(16)
    weight[4:8] = 0
    for dilution in (1.0, 0.5):
        loss_fn = hace.HACELoss(tree, dilution, weight=weight, label_smoothing=0.2)
        parts, target = layer(6, 16, torch.float32), torch.tensor([0, 1, 2, 3, 8, 15])
        parts[2].data[4:8] = -torch.inf
        x, w, b = parts
        loss, other = (
            loss_fn.linear(x, w, target, b, logit_bytes=0),
            loss_fn(linear(*parts), target),
        )
        assert loss.isfinite()
        torch.testing.assert_close(loss, other)
        found, wanted = (torch.autograd.grad(each, parts) for each in (loss, other))
        for one, two in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"soft_label_beta": 4.0}], ids=str)
def test_rows_that_do_not_count_may_hold_nan_and_others_are_nan(
    options: dict[str, Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 7)
    case = tree_cases.TreeCase(tree_cases.SHAPES["shuffled"](rng))
    loss_fn = hace.HACELoss(case.hierarchy, reduction="none", **options)
    parts, target = layer(5, case.num_classes, torch.float32), case.targets(5)
    parts[0].data[1], parts[0].data[3], target[1] = torch.nan, torch.nan, -100
    x, weight, bias = parts
    loss = loss_fn.linear(x, weight, target, bias, logit_bytes=0)
    assert loss.isnan().tolist() == [False, False, False, True, False]
    assert loss[1] == 0
    (grad,) = torch.autograd.grad(loss, x, torch.ones(5))
    assert (grad[1] == 0).all()
    assert grad[3].isnan().all()
    assert grad[[0, 2, 4]].isfinite().all()


def test_a_constant_added_to_a_row_changes_little(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 7)
    case = tree_cases.TreeCase(tree_cases.SHAPES["shuffled"](rng))
    loss_fn = hace.HACELoss(case.hierarchy, label_smoothing=0.9, reduction="none")
    z, target = torch.randn(6, case.num_classes).round(decimals=2), case.targets(6)
    eye = torch.eye(6)
    losses = [loss_fn.linear(eye, (z + c).T, target, logit_bytes=0) for c in (0.0, 8192.0)]
    rounded = loss_fn((z + 8192.0) - 8192.0, target)
    torch.testing.assert_close(losses[1], rounded, rtol=2e-6, atol=0)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.2}, {"soft_label_beta": 8.0}], ids=str)
def test_half_precision_is_no_worse_than_with_whole_logits(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 32)
    tree = tree_cases.hierarchy_of(trees.balanced([8, 8, 8]))
    loss_fn = hace.HACELoss(tree, **options)
    parts, target = layer(128, 512, torch.bfloat16), torch.randint(512, (128,))
    exact = [part.detach().double().requires_grad_() for part in parts]
    wanted = torch.autograd.grad(loss_fn(linear(*exact), target), exact)
    x, weight, bias = parts
    tiled = loss_fn.linear(x, weight, target, bias, logit_bytes=0)
    found = torch.autograd.grad(tiled, parts)
    unfused = torch.autograd.grad(loss_fn(linear(*parts), target), parts)
    for name, one, two, true in zip("xWb", found, unfused, wanted, strict=True):
        errors = [float((each.double() - true).norm() / true.norm()) for each in (one, two)]
        # The input's gradient is a sum over tiles, each part of which is rounded.
        assert errors[0] <= (1.5 if name == "x" else 1.05) * errors[1], (name, errors)


class Sizes(TorchDispatchMode):
    """Records the size of the largest floating-point tensor that ops make."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor) and each.is_floating_point():
                self.largest = max(self.largest, each.numel())
        return out


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_no_tensor_is_as_large_as_the_logits(
    shuffled: bool, kind: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 16)
    tree = trees.balanced([8, 8, 4])
    if shuffled:
        tree = trees.Tree(tree.parents, rng.permutation(tree.classes))
    how, options = KINDS[kind]
    loss_fn = hace.HACELoss(tree_cases.hierarchy_of(tree), **options)
    (x, weight, bias), target = layer(64, 256, torch.float32), torch.randint(256, (64,))
    if how == "probabilities":
        target = torch.rand(64, 256).softmax(1)
    with Sizes() as sizes:
        loss_fn.linear(x, weight, target, bias, logit_bytes=0).backward()
    assert sizes.largest < 64 * 256 // 4


def test_a_retained_graph_gives_the_same_again(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 7)
    case = tree_cases.TreeCase(tree_cases.SHAPES["shuffled"](rng))
    loss_fn = hace.HACELoss(case.hierarchy, label_smoothing=0.1)
    parts = layer(5, case.num_classes, torch.float32)
    x, weight, bias = parts
    loss = loss_fn.linear(x, weight, case.targets(5), bias, logit_bytes=0)
    once = torch.autograd.grad(loss, parts, retain_graph=True)
    twice = torch.autograd.grad(3 * loss, parts)
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(two, 3 * one)


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sample(kind=["smoothed over nodes", "soft and smoothed", "smoothed probabilities"])
def test_every_backend(
    backend: Backend, kind: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 13)
    case = tree_cases.TreeCase(tree_cases.SHAPES["inner classes"](rng))
    check(case, torch.float32, kind, rows=3, backend=backend)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "options", [{}, {"smoothing": "others"}, {"soft_label_beta": 4.0}], ids=str
)
def test_class_weights_and_reductions(
    reduction: str,
    options: dict[str, Any],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow(monkeypatch, 7)
    case = tree_cases.TreeCase(tree_cases.SHAPES["shuffled inner classes"](rng))
    loss_fn = hace.HACELoss(
        case.hierarchy,
        label_smoothing=0.3,
        weight=torch.rand(case.num_classes),
        reduction=reduction,
        **options,
    )
    for how in ("index", "pairs", "probabilities"):
        if how == "probabilities" and "soft_label_beta" in options:
            continue
        target = targets(case, 6, how)
        parts = layer(6, case.num_classes, torch.float64)
        x, weight, bias = parts
        one = loss_fn.linear(x, weight, target, bias, logit_bytes=0)
        two = loss_fn(linear(*parts), target)
        torch.testing.assert_close(one, two)
        found, wanted = (torch.autograd.grad(loss, parts) for loss in (one, two))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.2}, {"soft_label_beta": 8.0}], ids=str)
def test_the_classifier_spreads_by_tiles(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 7)
    tree = tree_cases.hierarchy_of(trees.balanced([3, 4, 5]))
    loss = hace.HACELoss(tree, **options)
    models = [HierarchicalClassifier(FEATURES, tree, loss, fused=fused) for fused in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    x, target = torch.randn(6, FEATURES), torch.tensor([0, 5, -100, 59, 7, 7])
    results = []
    for model in models:
        leaf = x.clone().requires_grad_()
        loss_, output = (prediction := model(leaf, target)).loss, prediction.output
        grads = torch.autograd.grad(loss_ + output.sum(), [leaf, *model.parameters()])
        results.append((loss_, output, *grads))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_empty_batches_and_small_logits(rng: np.random.Generator) -> None:
    case = tree_cases.TreeCase(tree_cases.SHAPES["shuffled"](rng))
    loss_fn = hace.HACELoss(case.hierarchy, label_smoothing=0.1, reduction="sum")
    for rows in (0, 3):
        x, weight, bias = parts = layer(rows, case.num_classes, torch.float32)
        target = torch.full((rows,), -100)
        loss = loss_fn.linear(x, weight, target, bias, logit_bytes=0)
        assert loss == 0
        assert all((grad == 0).all() for grad in torch.autograd.grad(loss, parts))
        assert torch.equal(loss_fn.linear(x, weight, target, bias), loss)


def nodes_of(case: tree_cases.TreeCase) -> torch.Tensor:
    return torch.full((3, case.num_nodes), 1 / case.num_nodes)


def classes_of(case: tree_cases.TreeCase) -> torch.Tensor:
    return torch.full((3, case.num_classes), 1 / case.num_classes)


def indices(case: tree_cases.TreeCase) -> torch.Tensor:
    return case.targets(3)


@pytest.mark.parametrize(
    ("options", "target", "why", "instead"),
    [
        ({"label_smoothing": 0.1, "eps": 1e-6}, indices, "no eps by tiles", "leave out eps"),
        ({"soft_label_beta": 5.0, "eps": 1e-6}, indices, "no eps by tiles", "leave out eps"),
        ({"eps": 1e-6}, classes_of, "no eps by tiles", "leave out eps"),
        (
            {"label_smoothing": 1.0, "smoothing": "others"},
            indices,
            "leaves nothing on the target",
            "smaller label_smoothing",
        ),
        ({"target_space": "nodes"}, nodes_of, "may be on inner nodes", "as a pair"),
        (
            {"label_smoothing": 0.1, "smoothing": "nodes"},
            classes_of,
            "smoothed over nodes",
            'smoothing="uniform"',
        ),
        (
            {},
            lambda case: classes_of(case).requires_grad_(),
            "that require a gradient",
            "detach the target",
        ),
    ],
)
def test_what_does_not_go_by_tiles_says_what_does(
    options: dict[str, Any], target: Any, why: str, instead: str, rng: np.random.Generator
) -> None:
    case = tree_cases.TreeCase(tree_cases.SHAPES["tree"](rng))
    x, weight, bias = layer(3, case.num_classes, torch.float32)
    loss_fn, given = hace.HACELoss(case.hierarchy, **options), target(case)
    with pytest.raises(ValueError, match=rf"{why}.*{instead}.*F\.linear\(input, weight, bias\)"):
        loss_fn.linear(x, weight, given, bias, logit_bytes=0)
    # The suggested call works, and is what happens by itself while the logits are small.
    whole = loss_fn(linear(x, weight, bias), given)
    torch.testing.assert_close(loss_fn.linear(x, weight, given, bias), whole)


def test_losses_of_single_paths_take_no_spread_targets(rng: np.random.Generator) -> None:
    case = tree_cases.TreeCase(tree_cases.SHAPES["tree"](rng))
    x, weight, bias = layer(3, case.num_classes, torch.float32)
    pairs = torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1)
    entropic = hace.RegularizedCrossEntropyLoss(case.hierarchy)
    for loss_fn, target, why in (
        (hace.HXELoss(case.hierarchy), classes_of(case), "give target indices"),
        (hace.HXELoss(case.hierarchy), pairs, "give target indices"),
        (entropic, pairs, "one target index per row"),
        (entropic, classes_of(case), "one target index per row"),
    ):
        with pytest.raises(ValueError, match=why):
            loss_fn.linear(x, weight, target, bias, logit_bytes=0)


def test_a_dag_needs_whole_logits() -> None:
    edges = [("a", "x"), ("b", "x"), ("a", "y"), ("b", "z")]
    dag = hace.Hierarchy.from_edges(edges, allow_multiple_parents=True)
    x, weight, bias = layer(3, dag.num_classes, torch.float32)
    target = torch.arange(3) % dag.num_classes
    loss_fn = hace.HACELoss(dag)
    with pytest.raises(
        ValueError, match=r"DAG's subtrees.*F\.linear\(input, weight, bias\)"
    ) as told:
        loss_fn.linear(x, weight, target, bias, logit_bytes=0)
    assert "hard targets" not in str(told.value)  # these would be refused as well
    whole = loss_fn(linear(x, weight, bias), target)
    torch.testing.assert_close(loss_fn.linear(x, weight, target, bias), whole)


def test_targets_of_other_shapes_are_refused(rng: np.random.Generator) -> None:
    case = tree_cases.TreeCase(tree_cases.SHAPES["tree"](rng))
    x, weight, bias = layer(3, case.num_classes, torch.float32)
    with pytest.raises(ValueError, match="target must be"):
        hace.HACELoss(case.hierarchy).linear(
            x, weight, classes_of(case)[:, 1:], bias, logit_bytes=0
        )
