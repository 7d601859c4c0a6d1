"""`tree_log_loss` agrees with the oracle for all kinds of trees, targets, options and numbers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import trees
from backend import Backend, kernels_give_nan, many_rows
from cases import DTYPES, REDUCTIONS
from hypothesis import given
from oracle import (
    ROUNDOFF,
    UNDERFLOW,
    Sweep,
    assert_grad_close,
    assert_loss_close,
    to_real,
    working_dtype,
)
from selection import thoroughly
from test_hace_loss_properties import DILUTIONS, SEEDS, hierarchies, property_test
from test_path_log_loss import LAYOUTS
from test_path_log_loss_autograd import Watch
from test_path_log_loss_numerics import GAPS, MASKS, call_cross_entropy
from torch._dynamo.testing import CompileCounterWithBackend
from tree_cases import (
    FEW,
    ROWS,
    SHAPES,
    TreeCase,
    assert_rows_stand_alone,
    call,
    check,
    deep_case,
    expected,
    far_apart,
    large_case,
    roundings_of_sums,
    some_case,
    to_device,
    wide_case,
)

from hace.tables import Tables
from hace.weights import HACEWeights
from hace_kernels import SoftLabels, TargetTable, native, path_log_loss, tree_log_loss

pytestmark = pytest.mark.parity

#: The kinds of targets, each with the options of its table.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "index": ("index", {}),
    "smoothed": ("index", {"label_smoothing": 0.1}),
    "smoothed over others": ("index", {"label_smoothing": 0.2, "smoothing": "others"}),
    "soft": ("index", {"soft_label_beta": 5.0}),
    "soft by depth": ("index", {"soft_label_beta": 5.0, "soft_label_distance": "depth"}),
    "soft and smoothed": ("index", {"soft_label_beta": 3.0, "label_smoothing": 0.1}),
    "probabilities": ("probabilities", {}),
    "smoothed probabilities": ("probabilities", {"label_smoothing": 0.1}),
    "probabilities over others": ("probabilities", {"label_smoothing": 0.1, "smoothing": "others"}),
    "pairs": ("pairs", {}),
    "smoothed pairs": ("pairs", {"label_smoothing": 0.1}),
    "soft pairs": ("pairs", {"soft_label_beta": 5.0, "soft_label_distance": "depth"}),
}

#: One kind for each path through the kernels.
FEW_KINDS = ["index", "smoothed", "soft by depth", "probabilities over others", "soft pairs"]

needs_native = pytest.mark.skipif(
    native.load_error is not None,
    reason="the op torch.ops.hace_kernels.tree_log_loss comes with the native library",
)


def targets_of(case: TreeCase, kind: str, rows: int, space: str = "classes") -> Any:
    """Targets of a kind for `rows` rows, and the options of their table."""
    form, options = KINDS[kind]
    options = {**options, "target_space": space}
    if form == "index":
        return case.targets(rows, space), options
    if form == "pairs":
        return case.pairs(rows, 4, space), options
    return case.probabilities(rows, space), options


def rows_of(target: Any, rows: Any) -> Any:
    return tuple(part[rows] for part in target) if isinstance(target, tuple) else target[rows]


@pytest.mark.sample(shape=["nodes without classes"])
@pytest.mark.parametrize(
    ("shape", "kind"),
    [(shape, kind) for shape in SHAPES for kind in KINDS if shape in FEW or kind in FEW_KINDS],
)
def test_trees(backend: Backend, rng: np.random.Generator, shape: str, kind: str) -> None:
    case = TreeCase(SHAPES[shape](rng))
    for dtype, dilution, space in zip(
        DTYPES, (0.2, 0.7, 1.0, 0.5), ("classes", "nodes") * 2, strict=True
    ):
        target, options = targets_of(case, kind, 9, space)
        check(case, case.logits(9, dtype), target, backend, dilution, **options)


@many_rows
@pytest.mark.not_on("reference", reason="it treats few rows like many")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["in runs", "scattered", "inner classes", "nodes"])
def test_few_rows(backend: Backend, rng: np.random.Generator, shape: str, kind: str) -> None:
    """Kernels treat few rows one by one, and sum neighbouring children at once."""
    tree = {
        "in runs": lambda: trees.balanced([3, 71]),
        "scattered": lambda: trees.random_tree(rng, 300, roots=2, shuffle=True),
        "inner classes": lambda: trees.random_tree(rng, 80, roots=3, inner=0.5),
        "nodes": lambda: trees.random_tree(rng, 60, roots=2, shuffle=True).in_node_mode(),
    }[shape]()
    case = TreeCase(tree)
    for dtype, rows, space in zip(DTYPES, (1, 2, 4, 1), ("classes", "nodes") * 2, strict=True):
        target, options = targets_of(case, kind, rows, space)
        check(case, case.logits(rows, dtype), target, backend, 0.4, **options)


@many_rows
@pytest.mark.parametrize("kind", ["smoothed", "soft by depth", "probabilities over others"])
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("alike", [True, False])
def test_what_has_risen_is_found_where_the_table_has_none(
    backend: Backend, rng: np.random.Generator, alike: bool, rows: int, kind: str
) -> None:
    # A class that is a root keeps all mass that reaches it.
    unlike = trees.random_tree(rng, 80, roots=60, inner=0.5, shuffle=True)
    case = TreeCase(trees.balanced([4, 11]) if alike else unlike)
    target, options = targets_of(case, kind, rows)
    table = case.target_table(target=target, **options)
    assert table.risen is not None and table.by_column is not None  # noqa: PT018
    assert (len(table.by_column.kept) == 1) == alike
    moved = TargetTable.of_tensors(table.tensors, table.row_spread).to("cpu")
    assert moved.risen is not None
    for dtype in (torch.float32, torch.float64):
        logits = case.logits(rows, dtype)
        answers = [
            call(case, logits, target, some, backend)
            for some in (table, moved, table._replace(risen=None, by_column=None))
        ]
        for loss, grad in answers[1:]:
            torch.testing.assert_close(loss, answers[0][0], rtol=1e-6, atol=0)
            torch.testing.assert_close(grad, answers[0][1], rtol=1e-5, atol=1e-8)


@pytest.mark.sample(dtype=[torch.float32], kind=["soft pairs"])
@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_rows(
    backend: Backend, rng: np.random.Generator, kind: str, dtype: torch.dtype
) -> None:
    case = some_case(rng, 20, shuffle=True)
    for rows in ROWS:
        target, options = targets_of(case, kind, rows)
        check(case, case.logits(rows, dtype), target, backend, reduction="none", **options)


@pytest.mark.sample(reduction=["mean"], eps=[1e-6])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_options(
    backend: Backend, rng: np.random.Generator, kind: str, reduction: str, eps: float
) -> None:
    case = TreeCase(SHAPES["nodes without classes"](rng))
    for space, width in (("classes", case.num_classes), ("nodes", case.num_nodes)):
        weight = torch.rand(width, dtype=torch.float64)
        weight[::5] = 0
        target, options = targets_of(case, kind, 20, space)
        if KINDS[kind][0] == "index":
            target[::6] = -100
        for weighted, dtype in ((None, torch.float64), (weight, torch.float32)):
            check(
                case,
                case.logits(20, dtype),
                target,
                backend,
                weight=weighted,
                reduction=reduction,
                eps=eps,
                incoming=torch.randn(20) if reduction == "none" else 1.0,
                **options,
            )


@pytest.mark.sample(ignore_index=[3], kind=["pairs", "soft pairs"])
@pytest.mark.parametrize("kind", ["index", "smoothed", "pairs", "soft pairs"])
@pytest.mark.parametrize("ignore_index", [3, -1, 10**6])
def test_ignore_index(
    backend: Backend, rng: np.random.Generator, kind: str, ignore_index: int
) -> None:
    case = some_case(rng)
    target, options = targets_of(case, kind, 12)
    (target[0] if isinstance(target, tuple) else target)[::3] = ignore_index
    logits = case.logits(12, torch.float32)
    for reduction in REDUCTIONS:
        check(
            case,
            logits,
            target,
            backend,
            reduction=reduction,
            ignore_index=ignore_index,
            **options,
        )


@property_test
@given(hierarchies(), SEEDS, DILUTIONS)
def test_random_trees(tree: trees.Tree, seed: int, dilution: float) -> None:
    """Random trees are right on the backend that `auto` chooses."""
    case = TreeCase(tree)
    torch.manual_seed(seed)
    auto = Backend("auto", torch.device("cpu"))
    for kind in FEW_KINDS:
        target, options = targets_of(case, kind, 5, "nodes")
        check(case, case.logits(5, torch.float64, 5.0), target, auto, dilution, **options)


# --- tables ---------------------------------------------------------------------------------------


def any_table(
    case: TreeCase, rng: np.random.Generator, soft: bool, roots_hand_on: bool
) -> tuple[TargetTable, trees.Tree, np.ndarray, np.ndarray]:
    """A table of random numbers, the tree of its places, and the mass of targets on the places.

    Returns:
        The table; the places as a tree whose root is the virtual root; (T, P) the mass that a
        target of weight 1 puts on each place; (P) the mass that every row puts on each place.
    """
    parent = case.table.parent.numpy().astype(np.int64)
    places, width = len(parent), case.num_classes
    tree = trees.Tree(parent, np.arange(width))
    place = rng.permutation(places - 1)[: places // 2 + 1]
    keep = np.where(rng.random(places) < 0.2, rng.integers(0, 2, places), rng.random(places))
    if not roots_hand_on:
        keep[parent == places - 1] = 1
    is_class = np.zeros(places)
    is_class[rng.permutation(places - 1)[: places // 2]] = 1
    unit = is_class * rng.random(places)
    share, spread = rng.random(len(place)), rng.random(len(place))
    # Similarity decreases towards the root, as for any distance.
    log_similarity = -np.cumsum(rng.random(places))

    puts = spread[:, None] * unit
    if soft:
        for row, target in enumerate(place):
            on_path = tree.path(target)
            lowest = [next(v for v in tree.path(p) if v in on_path) for p in range(places)]
            similarity = np.exp(log_similarity[lowest] - log_similarity.max())
            puts[row] += share[row] * similarity / (similarity * is_class).sum() * unit
    else:
        puts[np.arange(len(place)), place] += share
    table = TargetTable(
        torch.from_numpy(place.astype(np.int32)),
        torch.from_numpy(keep),
        torch.from_numpy(unit),
        torch.from_numpy(share),
        None,
        torch.from_numpy(spread),
        0.05,
        SoftLabels(*map(torch.from_numpy, (log_similarity, is_class))) if soft else None,
    )
    return replace_weight(table, rng), replace(tree), puts, 0.05 * unit


def replace_weight(table: TargetTable, rng: np.random.Generator) -> TargetTable:
    return table._replace(weight=torch.from_numpy(rng.random(table.num_targets)))


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(shape=["shuffled inner classes"], form=["pairs"], eps=[1e-3])
@pytest.mark.parametrize("shape", FEW)
@pytest.mark.parametrize(
    ("form", "soft"),
    [
        ("index", False),
        ("pairs", False),
        ("probabilities", False),
        ("index", True),
        ("pairs", True),
    ],
)
@pytest.mark.parametrize(("eps", "dtype"), [(0.0, torch.float64), (1e-3, torch.float32)], ids=str)
def test_any_table(
    backend: Backend,
    rng: np.random.Generator,
    shape: str,
    form: str,
    soft: bool,
    eps: float,
    dtype: torch.dtype,
) -> None:
    """Any table defines a loss, with shares of any size at any place, not only HACE's.

    The mass that roots hand on is at the virtual root, which is not a node, so it has no effect.
    """
    case = TreeCase(SHAPES[shape](rng))
    table, tree, puts, every_row = any_table(case, rng, soft, roots_hand_on=eps == 0)
    index = torch.from_numpy(rng.integers(0, len(puts), (9, 3)))
    weight = torch.from_numpy(rng.random((9, 3)))
    probabilities = torch.from_numpy(rng.random((9, len(puts))))
    target: Any = {"index": index[:, 0], "pairs": (index, weight)}.get(form, probabilities)
    if form == "index":
        mass, divisor = puts[index[:, 0]], float(table.weight[index[:, 0]].sum())
    elif form == "pairs":
        mass, divisor = (to_real(weight)[:, :, None] * puts[index]).sum(1), 9.0
    else:
        mass, divisor = to_real(probabilities) @ puts, 9.0
    q = Sweep(tree).risen(mass + every_row, table.keep.numpy())
    logits = case.logits(9, dtype)
    rows = oracle.node_log_loss(logits, tree.reach(), q, eps)
    for reduction in REDUCTIONS:
        loss, grad = call(case, logits, target, table, backend, reduction=reduction, eps=eps)
        answer = oracle.reduce(rows, reduction, divisor)
        assert_loss_close(loss, answer, dtype, 20 + case.depth)
        assert_grad_close(grad, answer, roundings=20 + case.depth)


def test_places_in_any_order_within_a_level(backend: Backend, rng: np.random.Generator) -> None:
    """Kernels rely only on children coming before their parents, level by level."""
    case = TreeCase(SHAPES["shuffled inner classes"](rng))
    tree, width = case.table, case.num_classes
    new = np.arange(tree.num_places)
    for first, last in zip(tree.level_ptr[:-1], tree.level_ptr[1:], strict=True):
        new[width + first : width + last] = width + first + rng.permutation(last - first)
    old = np.argsort(new)
    parent = np.append(new[tree.parent.numpy()[old][:-1]], -1)
    child = np.argsort(parent[:-1], kind="stable")
    counts = np.bincount(parent[:-1] - width, minlength=tree.num_inner)
    place = np.where(tree.place.numpy() >= 0, new[tree.place.numpy()], -1)
    arrays = (place, parent, np.append(0, np.cumsum(counts)), child, tree.num_columns.numpy()[old])
    tensors = [torch.from_numpy(array.astype(np.int32)) for array in arrays]
    permuted = type(tree)(*tensors, level_ptr=tree.level_ptr)
    table = case.target_table(label_smoothing=0.1)
    moved = table._replace(
        place=torch.from_numpy(new[table.place.numpy()].astype(np.int32)),
        keep=table.keep[torch.from_numpy(old)],
        unit=table.unit[torch.from_numpy(old)],
        risen=None,
    )
    logits, target = case.logits(7, torch.float64), case.targets(7)
    for backend_table in ((tree, table), (permuted, moved)):
        on_device = [part.to(backend.device) for part in backend_table]
        loss = tree_log_loss(
            logits.to(backend.device),
            target.to(backend.device),
            *on_device,
            reduction="none",
            backend=backend.name,
        )
        answer = expected(case, logits, target, reduction="none", label_smoothing=0.1)
        assert_loss_close(loss.cpu(), answer, torch.float64, 40)


def test_two_targets_at_one_place(backend: Backend) -> None:
    """Their masses add up, like those of an index that occurs twice in a row's pairs."""
    case = TreeCase(trees.balanced([2, 2]))
    table = case.target_table()
    twice = torch.tensor([0, 0, 1, 3])
    merged = table._replace(place=table.place[twice], share=table.share[twice], by_column=None)
    logits = case.logits(3, torch.float64)
    target = torch.rand(3, 4, dtype=torch.float64)
    summed = torch.zeros(3, 4, dtype=torch.float64).index_add(1, twice, target)
    loss, grad = call(case, logits, target, merged, backend, reduction="none")
    answer = expected(case, logits, summed, reduction="none")
    assert_loss_close(loss, answer, torch.float64)
    assert_grad_close(grad, answer)


# --- pairs ----------------------------------------------------------------------------------------


@pytest.mark.sample(dtype=[torch.float64], count=[7, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 120])
@pytest.mark.parametrize("kind", ["pairs", "smoothed pairs", "soft pairs"])
def test_numbers_of_pairs(
    backend: Backend, rng: np.random.Generator, kind: str, count: int, dtype: torch.dtype
) -> None:
    """Without pairs, only smoothing is left; many pairs contain each target several times."""
    case = some_case(rng, 12, shuffle=True)
    for space in ("classes", "nodes"):
        target = case.pairs(9, count, space)
        options = {**KINDS[kind][1], "target_space": space}
        for reduction in REDUCTIONS:
            check(
                case,
                case.logits(9, dtype),
                target,
                backend,
                reduction=reduction,
                roundings=16 + count / 8,  # up to `count` terms at one place
                **options,
            )


@pytest.mark.thorough_on("triton")
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"soft_label_beta": 4.0}], ids=str
)
def test_forms_of_one_target(
    backend: Backend, rng: np.random.Generator, options: dict[str, Any]
) -> None:
    """An index, a pair, two pairs of half the weight and one-hot probabilities are the same."""
    case = some_case(rng, shuffle=True)
    logits, index = case.logits(9, torch.float64), case.targets(9)
    table, one = case.target_table(**options), torch.ones(9, 1, dtype=torch.float64)
    forms: list[Any] = [
        index,
        (index[:, None], one),
        (index[:, None].expand(9, 2), one.expand(9, 2) / 2),
        (torch.stack([index, index.flip(0)], 1), torch.cat([one, 0 * one], 1)),
        (torch.stack([torch.full_like(index, -100), index], 1), torch.cat([7 * one, one], 1)),
    ]
    if not options.get("soft_label_beta"):
        forms.append(torch.nn.functional.one_hot(index, case.num_classes).double())
    results = [call(case, logits, form, table, backend, reduction="none") for form in forms]
    for loss, grad in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(grad, results[0][1], rtol=1e-13, atol=1e-15)


@pytest.mark.thorough_on("triton")
def test_pairs_are_sparse_probabilities(backend: Backend, rng: np.random.Generator) -> None:
    case = some_case(rng, 12, shuffle=True)
    logits, (index, weight) = case.logits(9, torch.float64), case.pairs(9, 5, "nodes")
    dense = torch.zeros(9, case.num_nodes, dtype=torch.float64).scatter_add(1, index, weight)
    for options in ({}, {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "smoothing": "others"}):
        table = case.target_table(target_space="nodes", **options)
        one = call(case, logits, (index, weight), table, backend, reduction="none")
        two = call(case, logits, dense, table, backend, reduction="none")
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-14)


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.sample(
    dtype=[torch.float32], shape=["shuffled inner classes"], kind=["soft by depth", "soft pairs"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", FEW)
@pytest.mark.parametrize("kind", FEW_KINDS)
def test_gaps(
    backend: Backend, rng: np.random.Generator, shape: str, kind: str, dtype: torch.dtype
) -> None:
    """Each subtree in turn is far below the rest, then far below the subtree around it."""
    tree = trees.caterpillar(9) if shape == "caterpillar" else SHAPES[shape](rng)
    case = TreeCase(tree)
    nodes = np.flatnonzero(case.reach.any(axis=1) & ~case.reach.all(axis=1))
    depths = torch.from_numpy(case.reach.sum(axis=0).astype(float))
    offsets = []
    for gap in GAPS[1:]:
        node = torch.from_numpy(case.reach[rng.choice(nodes, 2)].astype(float))
        offsets += [-gap * node, -gap * depths[None], gap * depths[None]]
    rows = torch.cat(offsets)
    logits = (case.logits(len(rows), torch.float64) + rows).to(dtype)
    target, options = targets_of(case, kind, len(logits))
    check(case, logits, target, backend, **options)


@pytest.mark.sample(gap=[40], kind=["soft by depth", "soft pairs"], dilution=[0.99, 0.999])
@pytest.mark.parametrize("dilution", [0.001, 0.99, 0.999, 1 - 1e-6])
@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("gap", [0, 40])
def test_dilutions_near_their_ends(
    backend: Backend, rng: np.random.Generator, kind: str, gap: float, dilution: float
) -> None:
    """1 - d is computed exactly, since far below it decides how much mass is handed on."""
    case = TreeCase(trees.balanced([2, 3, 2, 2]))
    logits = case.logits(24, torch.float32)
    for row in range(24):
        logits[row, row - row % 4 : row - row % 4 + 4] -= gap
    target, options = targets_of(case, kind, 24)
    if kind in ("index", "smoothed", "soft by depth"):
        target = torch.arange(24)
    check(case, logits, target, backend, dilution, **options)


@pytest.mark.sample(beta=[300.0], distance=["depth"])
@pytest.mark.parametrize("beta", [0.0, 30.0, 300.0, 1e4])
@pytest.mark.parametrize("distance", ["height", "depth"])
@pytest.mark.parametrize("gap", [0, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_sharp_soft_labels(
    backend: Backend,
    rng: np.random.Generator,
    beta: float,
    distance: str,
    gap: float,
    dtype: torch.dtype,
) -> None:
    """Shares are as small as e^-beta, and matter for columns that far below."""
    case = some_case(rng, 24, shuffle=True)
    for space in ("classes", "nodes"):
        target = case.targets(24, space)
        logits = case.logits(24, dtype)
        logits[:, ::2] -= gap
        options: dict[str, Any] = {"soft_label_beta": beta, "soft_label_distance": distance}
        check(case, logits, target, backend, target_space=space, **options)


@pytest.mark.sample(dtype=[torch.float32], kind=["soft pairs"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", FEW_KINDS)
def test_huge_logits(
    backend: Backend, rng: np.random.Generator, kind: str, dtype: torch.dtype
) -> None:
    """Rows mix logits of +-1e4, where neighbouring fp32 numbers are 1e-3 apart."""
    case = TreeCase(trees.random_tree(rng, 20, roots=3, inner=0.3, shuffle=True))
    width = case.num_classes
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=(width, width)))
    noise = torch.randn(width, width, dtype=torch.float64)
    alone = 2 * torch.eye(width).double() - 1
    rows = [1e4 * signs, 1e4 + noise, -1e4 + noise, 1e4 * alone, -1e4 * alone]
    logits = torch.cat([*rows, 1e4 * noise.clamp(-1, 1)]).to(dtype)
    target, options = targets_of(case, kind, len(logits))
    check(case, logits, target, backend, **options)


@pytest.mark.sample(dtype=[torch.float32], order=["shuffled"], kind=["smoothed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("kind", ["index", "smoothed", "soft by depth", "probabilities", "pairs"])
def test_minus_infinity(
    backend: Backend,
    rng: np.random.Generator,
    kind: str,
    order: str,
    eps: float,
    dtype: torch.dtype,
) -> None:
    """Each masked row is between two ordinary rows, which it must not affect.

    If a subtree whose logits are all -inf has mass, the loss is infinite and the gradient goes
    evenly to its columns. If it has no mass, it adds 0 log 0 = 0.
    """
    tree = trees.balanced([3, 2, 3])
    columns = np.arange(18) if order == "ordered" else rng.permutation(18)
    case = TreeCase(trees.Tree(tree.parents, tree.classes[np.argsort(columns)]))
    logits = case.logits(2 * len(MASKS) + 1, dtype)
    for row, mask in enumerate(MASKS.values()):
        logits[2 * row + 1, torch.from_numpy(columns[mask])] = -torch.inf
    rows, options = len(logits), KINDS[kind][1]
    target: Any = torch.full((rows,), int(columns[7]))
    if kind == "probabilities":
        target = torch.nn.functional.one_hot(target, 18).double() * 0.9
        target[:, int(columns[6])] = 0.1
    elif kind == "pairs":
        other = torch.full((rows,), int(columns[6]))
        target = (torch.stack([target, other], 1), torch.tensor([[0.5, 0.5]]).expand(rows, 2))
    answer = expected(case, logits, target, reduction="none", eps=eps, **options)
    assert np.isnan(answer.loss).sum() == 1
    infinite = np.isinf(answer.loss).sum()
    assert infinite == 0 if eps else infinite >= 6
    assert infinite == len(MASKS) - 1 or "s" not in kind[:1] or eps
    check(case, logits, target, backend, reduction="none", eps=eps, **options)


def test_minus_infinity_and_a_gap(backend: Backend) -> None:
    """A subtree 500 below the rest contains subtrees of only -inf at every height."""
    case = TreeCase(trees.balanced([2, 2, 2, 3]))
    logits = case.logits(6, torch.float32)
    logits[:, :12] -= 500
    for row, dead in enumerate([slice(0, 1), slice(0, 3), slice(0, 6), slice(0, 12), slice(3, 12)]):
        logits[row, dead] = -torch.inf
    for kind in FEW_KINDS:
        target, options = targets_of(case, kind, 6)
        check(case, logits, target, backend, reduction="none", **options)
    for label in (0, 4, 11):
        check(case, logits, torch.full((6,), label), backend, reduction="none")


@pytest.mark.sample(label_smoothing=[1.0], dtype=[torch.float32])
@pytest.mark.parametrize(
    "tree",
    [
        trees.flat(2, rooted=False),
        trees.flat(5, rooted=False),
        trees.flat(5),
        trees.Tree(np.array([-1, -1, 0, 2, 1, 1]), np.array([3, 4, 5])),
    ],
    ids=["two", "five", "rooted", "only child"],
)
@pytest.mark.parametrize("label_smoothing", [0.7, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_smoothing_that_leaves_the_target_little(
    backend: Backend, tree: trees.Tree, label_smoothing: float, dtype: torch.dtype
) -> None:
    """Smoothing over the other classes may leave the target little mass or none.

    Without mass, its log P may be anything, even -inf, and must not be multiplied by a rounding
    error. With no mass at all, an ancestor without other classes may keep a rounding error; there
    d is 1.
    """
    case, classes = TreeCase(tree), tree.num_classes
    lonely = (case.reach.sum(axis=1) == 1).sum() > classes
    dilution = 1.0 if lonely and label_smoothing == 1 else 0.7
    weight = torch.linspace(0.3, 1.7, classes, dtype=torch.float64)
    logits = case.logits(classes * 3, dtype)
    target = torch.arange(classes).repeat(3)
    logits[torch.arange(classes), target[:classes]] -= 60
    logits[torch.arange(classes, 2 * classes), target[:classes]] = -torch.inf
    for weighted in (None, weight):
        check(
            case,
            logits,
            target,
            backend,
            dilution,
            reduction="none",
            label_smoothing=label_smoothing,
            smoothing="others",
            weight=weighted,
        )


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(dtype=[torch.float32], bad=[torch.nan], kind=["smoothed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("bad", [torch.inf, torch.nan], ids=str)
def test_infinity_and_nan(
    backend: Backend, rng: np.random.Generator, bad: float, kind: str, dtype: torch.dtype
) -> None:
    """Loss and gradient of the row are NaN, and no bit of another row changes."""
    case = TreeCase(trees.random_tree(rng, 37, roots=2, inner=0.2, shuffle=True))
    width = case.num_classes
    logits = case.logits(2 * width, dtype)
    logits[torch.arange(1, 2 * width, 2), torch.arange(width)] = bad
    target, options = targets_of(case, kind, 2 * width)
    table = case.target_table(**options)
    loss, grad = call(case, logits, target, table, backend, reduction="none")
    assert loss[1::2].isnan().all()
    assert grad[1::2].isnan().all()
    even = slice(None, None, 2)
    alone = call(case, logits[even], rows_of(target, even), table, backend, reduction="none")
    assert torch.equal(loss[even], alone[0])
    assert torch.equal(grad[even], alone[1])
    check(case, logits[even], rows_of(target, even), backend, reduction="none", **options)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan], ids=str)
def test_a_row_without_a_softmax_is_nan_even_without_mass(backend: Backend, bad: float) -> None:
    case = TreeCase(trees.balanced([2, 3]))
    logits = case.logits(3, torch.float32)
    logits[1] = bad
    table = case.target_table()
    nothing: tuple[Any, ...] = (
        torch.zeros(3, 6),
        (torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 2)),
    )
    for target in nothing:
        loss, grad = call(case, logits, target, table, backend, reduction="none")
        assert loss[[0, 2]].tolist() == [0, 0]
        assert (grad[[0, 2]] == 0).all()
        assert loss[1].isnan()
    # Rows whose entries are all ignored do not count, whatever they contain.
    for size in (0, 2):
        ignored = (torch.full((3, size), -100), torch.ones(3, size))
        loss, grad = call(case, logits, ignored, table, backend, reduction="none")
        assert loss.tolist() == [0, 0, 0]
        assert (grad == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("form", ["probabilities", "pairs", "soft pairs", "weighted index"])
def test_targets_that_are_no_number(backend: Backend, form: str, bad: float) -> None:
    """NaN or infinite mass is never silently 0, and affects only its own row."""
    case = TreeCase(trees.balanced([2, 3]))
    logits, target = case.logits(3, torch.float32), torch.tensor([0, 1, 2])
    options: dict[str, Any] = {}
    mixed: Any = target
    if form == "probabilities":
        mixed = torch.nn.functional.one_hot(target, 6).float()
        mixed[1, 4] = bad
    elif form == "weighted index":
        options["weight"] = torch.tensor([1.0, bad, 1, 1, 1, 1])
    else:
        weight = torch.ones(3, 2) / 2
        weight[1, 1] = bad
        mixed = (torch.stack([target, target + 3], 1), weight)
        options = {"soft_label_beta": 2.0} if form == "soft pairs" else {}
    table = case.target_table(**options)
    loss, grad = call(case, logits, mixed, table, backend, reduction="none")
    assert not loss[1].isfinite()
    assert not grad[1].isfinite().all()
    if form != "weighted index":  # a class weight belongs to all rows
        assert loss[[0, 2]].isfinite().all()
        assert grad[[0, 2]].isfinite().all()


@many_rows
@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["index", "smoothed", "soft", "soft by depth"])
def test_ignored_rows_may_hold_anything(
    backend: Backend, rng: np.random.Generator, kind: str, dtype: torch.dtype
) -> None:
    """Ignored rows in the middle of blocks change no bit of the other rows.

    On a GPU, rows are added up by their number, so the sum of the losses may differ in a bit.
    """
    case = some_case(rng)
    target, options = targets_of(case, kind, 33)
    logits = case.logits(33, dtype)
    kept = torch.ones(33, dtype=torch.bool)
    for row, bad in ((0, torch.nan), (5, torch.inf), (6, -torch.inf), (20, torch.nan), (32, 1.0)):
        logits[row], target[row], kept[row] = bad, -100, False
    logits[5, 3:] = 0
    table = case.target_table(**options)
    for reduction in ("sum", "mean", "none"):
        loss, grad = call(case, logits, target, table, backend, reduction=reduction)
        alone = call(case, logits[kept], target[kept], table, backend, reduction=reduction)
        if reduction == "none":
            assert (loss[~kept] == 0).all()
            loss = loss[kept]
        rtol = {"reference": 1e-6, "cpu": 0.0}.get(backend.name, 2 * ROUNDOFF[loss.dtype])
        torch.testing.assert_close(loss, alone[0], rtol=rtol, atol=0)
        rtol = 1e-6 if backend.name == "reference" else 0.0
        torch.testing.assert_close(grad[kept], alone[1], rtol=rtol, atol=0)
    check(case, logits[kept], target[kept], backend, **options)


@pytest.mark.sample(kind=["pairs"])
@pytest.mark.parametrize("kind", ["pairs", "soft pairs"])
def test_rows_of_ignored_pairs_may_hold_anything(
    backend: Backend, rng: np.random.Generator, kind: str
) -> None:
    """Their loss and gradient are 0, and the mean divides by the number of all rows."""
    case = some_case(rng)
    target, options = targets_of(case, kind, 33)
    logits = case.logits(33, torch.float32)
    for row, bad in ((0, torch.nan), (5, torch.inf), (20, -torch.inf), (32, 1.0)):
        logits[row], target[0][row] = bad, -100
    for reduction in REDUCTIONS:
        check(case, logits, target, backend, reduction=reduction, **options)


@pytest.mark.sample(dtype=[torch.float32], kind=["smoothed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["index", "smoothed", "soft by depth"])
@pytest.mark.parametrize("rows", [0, 17], ids=["empty", "all ignored"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_to_average(
    backend: Backend,
    rng: np.random.Generator,
    kind: str,
    rows: int,
    reduction: str,
    dtype: torch.dtype,
) -> None:
    """As in F.cross_entropy, the mean is NaN, the sum 0, and the gradient of ignored rows 0."""
    case = some_case(rng)
    target, options = torch.full((rows,), -100), KINDS[kind][1]
    check(case, case.logits(rows, dtype), target, backend, reduction=reduction, **options)


@pytest.mark.sample(dtype=[torch.bfloat16], eps=[1e-6], kind=["soft by depth", "index"])
@pytest.mark.parametrize("eps", [1e-30, 1e-6, 1e-2])
@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_eps_where_it_decides(
    backend: Backend, rng: np.random.Generator, kind: str, eps: float, dtype: torch.dtype
) -> None:
    """For subtrees far below eps, the loss is at most -log(eps) and the gradient fades."""
    case = TreeCase(trees.balanced([2, 3, 4]))
    logits = case.logits(24, dtype)
    below = torch.tensor([0.0, 14, 60, 100, 1000]).repeat(5)[:24].to(dtype)
    logits[:12, :12] -= below[:12, None]
    logits[12:, 12:16] -= below[12:, None]
    target, options = targets_of(case, kind, 24)
    table = case.target_table(**options)
    loss, grad = call(case, logits, target, table, backend, reduction="none", eps=eps)
    answer = expected(case, logits, target, reduction="none", eps=eps, **options)
    assert_loss_close(loss, answer, dtype, 20)
    # The error of an exponent is proportional to its gap, and where all P fade it is a factor of
    # every entry. A P below the smallest normal number may be flushed, and is divided by eps.
    working, gap = working_dtype(dtype), answer.gap.max(axis=1, keepdims=True)
    relative = 2 * ROUNDOFF[dtype] + ROUNDOFF[working] * (20 + gap)
    flushed = UNDERFLOW[working] / eps + 2.0**-60 * answer.grad_scale.max(axis=1, keepdims=True)
    error = np.abs(to_real(grad) - answer.grad)
    assert (error <= relative * answer.grad_scale + flushed).all()


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["index", "soft pairs", "probabilities"])
def test_gaps_with_eps(
    backend: Backend, rng: np.random.Generator, kind: str, dtype: torch.dtype
) -> None:
    """Gradients are as exact as P where nodes are 10 or more below the largest logit."""
    case = some_case(rng)
    target, options = targets_of(case, kind, 100)
    if kind == "probabilities":
        target = torch.eye(case.num_classes).double()[torch.arange(100) % case.num_classes]
    logits = case.logits(100, dtype)
    for row in range(100):
        node = rng.choice(np.flatnonzero(case.reach.any(axis=1)))
        logits[row, torch.from_numpy(case.reach[node])] -= 10 + row
    for dilution in (0.7, 1.0):
        check(case, logits, target, backend, dilution, eps=1e-6, **options)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(dtype=[torch.float32], kind=["smoothed"])
@pytest.mark.parametrize("dtype", [torch.float32, *thoroughly(torch.float64)], ids=str)
@pytest.mark.parametrize(
    "kind", ["index", "smoothed", "soft pairs", "probabilities", "probabilities over others"]
)
def test_wide_node(backend: Backend, kind: str, dtype: torch.dtype) -> None:
    """With 100,000 children, the errors of adding one by one would be too large."""
    case = wide_case()
    logits = case.logits(2, dtype)
    options = KINDS[kind][1]
    target: Any = torch.tensor([77, 100_020])
    if KINDS[kind][0] == "pairs":
        target = (torch.tensor([[77, 5], [100_020, 9]]), torch.rand(2, 2, dtype=torch.float64))
    elif KINDS[kind][0] == "probabilities":
        # Equal terms are rounded alike, so their errors do not cancel.
        target = torch.full((2, case.num_classes), 1 / case.num_classes, dtype=torch.float64)
    mass = wide_mass(case, target, options)
    table = case.target_table(0.7, **options)
    loss, grad = call(case, logits, target, table, backend, reduction="none")
    keep = HACEWeights(0.7).keep(case.labels.parents >= 0)
    sweep = case.label_sweep
    answer = sweep.log_loss(logits, sweep.risen(mass, keep))
    roundings = roundings_of_sums(dtype, case.num_classes, backend)
    assert_loss_close(loss, answer, dtype, roundings)
    assert_grad_close(grad, answer, roundings=roundings)


def wide_mass(case: TreeCase, target: Any, options: dict[str, Any]) -> np.ndarray:
    """The targets' mass on the nodes; soft labels have only three different shares here."""
    count, epsilon = case.num_classes, oracle.REAL(options.get("label_smoothing", 0.0))
    if isinstance(target, torch.Tensor) and target.is_floating_point():
        mass = to_real(target)
    else:
        index, weight = target if isinstance(target, tuple) else (target[:, None], None)
        mass = np.zeros((len(index), count), dtype=oracle.REAL)
        for row, labels in enumerate(index.tolist()):
            for k, label in enumerate(labels):
                own = np.zeros(count, dtype=oracle.REAL)
                own[label] = 1
                if options.get("soft_label_beta"):
                    family = slice(0, 100_000) if label < 100_000 else slice(100_000, None)
                    own[:] = np.exp(-oracle.REAL(options["soft_label_beta"]))
                    own[family] = np.exp(-oracle.REAL(options["soft_label_beta"]) / 2)
                    own[label] = 1
                    own /= own.sum()
                mass[row] += own if weight is None else own * to_real(weight)[row, k]
    if options.get("smoothing") == "others":
        mass = (1 - epsilon) * mass + epsilon * (mass.sum(1, keepdims=True) - mass) / (count - 1)
    else:
        mass = (1 - epsilon) * mass + epsilon / count
    return case.label_sweep.on_nodes(mass)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(shape=["chain of classes"])
@pytest.mark.parametrize(
    ("shape", "dilution"),
    [("chain", 0.7), ("chain of classes", 0.7), ("caterpillar", 0.7), ("caterpillar", 0.001)],
)
def test_deep_tree(backend: Backend, shape: str, dilution: float) -> None:
    case = deep_case(shape, backend)
    levels, count = len(case.table.level_ptr), case.num_classes
    logits = case.logits(2, torch.float32)
    labels = torch.tensor([count - 1, count // 2])
    hard = to_real(torch.nn.functional.one_hot(labels, count))
    dense = torch.rand(2, count, dtype=torch.float64) / count
    forms: list[tuple[Any, np.ndarray, float]] = [
        (labels, 0.9 * hard + oracle.REAL(0.1) / count, 0.1),
        ((labels[:, None], torch.ones(2, 1)), hard, 0.0),
        (dense, to_real(dense), 0.0),
    ]
    keep = HACEWeights(dilution).keep(case.labels.parents >= 0)
    mass = case.label_sweep.on_nodes(np.concatenate([mass for _, mass, _ in forms]))
    answers = case.label_sweep.log_loss(logits.repeat(3, 1), case.label_sweep.risen(mass, keep))
    for number, (target, _, epsilon) in enumerate(forms):
        answer = oracle.rows_of(answers, slice(2 * number, 2 * number + 2))
        table = case.target_table(dilution, label_smoothing=epsilon)
        for dtype in (torch.float64, torch.float32):
            loss, grad = call(case, logits.to(dtype), target, table, backend, reduction="none")
            assert_loss_close(loss, answer, dtype, 16 + levels)
            assert_grad_close(grad, answer, roundings=16 + levels)


@pytest.mark.thorough_on("triton")
@pytest.mark.thorough
@pytest.mark.parametrize("distance", ["height", "depth"])
def test_deep_soft_labels(backend: Backend, distance: str) -> None:
    """There is a distance for each of thousands of levels; on a caterpillar they are known."""
    case = deep_case("caterpillar", backend)
    count, label = case.num_classes, case.num_classes // 3
    # Level i has leaf i and node i, and all leaves from i on are below node i.
    lca = np.minimum(np.arange(count), label).astype(float)
    far = 1 - lca / (count - 1)
    if distance == "height":
        far = (count - 1 - lca) / (count - 1)
    far[label] = 0
    near = np.exp(-oracle.REAL(9) * far.astype(oracle.REAL))
    sweep, keep = case.label_sweep, HACEWeights(0.7).keep(case.labels.parents >= 0)
    mass = np.broadcast_to(near / near.sum(), (2, count))
    q = sweep.risen(sweep.on_nodes(mass), keep)
    logits, target = case.logits(2, torch.float32), torch.tensor([label] * 2)
    answer = sweep.log_loss(logits, q)
    table = case.target_table(soft_label_beta=9.0, soft_label_distance=distance)
    for dtype in (torch.float64, torch.float32):
        loss, grad = call(case, logits.to(dtype), target, table, backend, reduction="none")
        assert_loss_close(loss, answer, dtype, 16 + count)
        assert_grad_close(grad, answer, roundings=16 + count)


@pytest.mark.thorough_on("reference", "triton")
def test_large_tree(backend: Backend) -> None:
    case, dtype = large_case(), torch.float32
    logits = case.logits(3, dtype)
    target = torch.randint(case.num_classes, (3,))
    sweep, keep = case.label_sweep, HACEWeights(0.7).keep(case.labels.parents >= 0)
    dense = torch.rand(3, case.num_classes, dtype=torch.float64) / case.num_classes
    one_hot = to_real(torch.nn.functional.one_hot(target, case.num_classes))
    smoothed = oracle.REAL(9) / 10 * one_hot + oracle.REAL(1) / 10 / case.num_classes
    for form, mass, epsilon in ((dense, to_real(dense), 0.0), (target, smoothed, 0.1)):
        answer = sweep.log_loss(logits, sweep.risen(sweep.on_nodes(mass), keep))
        table = case.target_table(0.7, label_smoothing=epsilon)
        loss, grad = call(case, logits, form, table, backend, reduction="none")
        roundings = roundings_of_sums(dtype, case.num_nodes, backend) + len(case.table.level_ptr)
        assert_loss_close(loss, answer, dtype, roundings)
        assert_grad_close(grad, answer, roundings=roundings)


@pytest.mark.sample(dtype=[torch.float32], width=[10])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [10, 1000, 30_000])
def test_as_exact_as_cross_entropy(backend: Backend, width: int, dtype: torch.dtype) -> None:
    """The largest errors over 16 rows, against float64, are like those of F.cross_entropy."""
    case = TreeCase(trees.flat(width, rooted=False))
    logits, target = case.logits(16, dtype), torch.randint(width, (16,))
    sweep = Sweep(case.tree)
    mass = to_real(torch.nn.functional.one_hot(target, width))
    answer = sweep.log_loss(logits, sweep.on_nodes(mass))
    loss, grad = call(case, logits, target, case.target_table(1.0), backend, reduction="none")
    plain, plain_grad = call_cross_entropy(logits, target)

    def loss_error(found: torch.Tensor) -> float:
        return float((np.abs(to_real(found) - answer.loss) / answer.loss_scale).max())

    def grad_error(found: torch.Tensor) -> float:
        error = np.abs(to_real(found) - answer.grad)
        return float((error / np.abs(answer.grad).max(axis=1, keepdims=True)).max())

    unit = ROUNDOFF[working_dtype(dtype)]
    assert loss_error(loss) <= 4 * loss_error(plain) + 2 * unit
    assert grad_error(grad) <= 4 * grad_error(plain_grad) + 2 * unit


@many_rows
@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_hard_targets_are_those_of_path_log_loss(
    backend: Backend, rng: np.random.Generator, eps: float, dtype: torch.dtype
) -> None:
    case = some_case(rng, shuffle=True)
    logits, target = case.logits(33, dtype), case.targets(33, "nodes")
    target[::7] = -100
    paths = Tables.of(case.hierarchy).paths(
        HACEWeights(0.7), target_space="nodes", keep_full=eps > 0
    )
    x = logits.to(backend.device).requires_grad_()
    options: dict[str, Any] = {"reduction": "none", "eps": eps}
    hard = path_log_loss(
        x, target.to(x.device), paths.to(x.device), backend=backend.name, **options
    )
    (hard_grad,) = torch.autograd.grad(hard.sum(), x)
    table = case.target_table(target_space="nodes")
    loss, grad = call(case, logits, target, table, backend, **options)
    unit = ROUNDOFF[working_dtype(dtype)]
    torch.testing.assert_close(loss, hard.detach(), rtol=32 * unit, atol=32 * unit)
    atol = (ROUNDOFF[dtype] + 32 * unit) * float(hard_grad.abs().max())
    torch.testing.assert_close(grad, hard_grad, rtol=2 * ROUNDOFF[dtype], atol=atol)


# --- rows, threads and memory layouts -------------------------------------------------------------


@pytest.mark.sample(dtype=[torch.float32], kind=["smoothed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["smoothed", "probabilities"])
def test_layouts(
    backend: Backend, rng: np.random.Generator, kind: str, layout: str, dtype: torch.dtype
) -> None:
    for leaves in (1, 7, 50):
        case = TreeCase(trees.random_tree(rng, leaves, roots=min(2, leaves), shuffle=True))
        logits = LAYOUTS[layout](case.logits(6, dtype).to(backend.device))
        target, options = targets_of(case, kind, len(logits))
        check(case, logits, target, backend, reduction="mean", **options)


@pytest.mark.sample(kind=["pairs"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["smoothed", "probabilities", "pairs"])
def test_layouts_of_targets(
    backend: Backend, rng: np.random.Generator, kind: str, layout: str
) -> None:
    """Indices and weights may have any strides, including 0."""
    case = some_case(rng)
    laid_out = LAYOUTS[layout]
    if kind == "probabilities":
        target: Any = laid_out(case.probabilities(6))
    elif kind == "pairs":
        target = tuple(map(laid_out, case.pairs(6, 4)))
    else:
        target = laid_out(case.targets(6)[:, None])[:, 0]
    rows = len(target[0] if isinstance(target, tuple) else target)
    options = KINDS[kind][1]
    check(case, case.logits(rows, torch.float32), target, backend, reduction="none", **options)


@pytest.mark.parametrize("kind", ["smoothed", "probabilities"])
def test_rows_far_apart(
    backend: Backend, rng: np.random.Generator, tmp_path: Path, kind: str
) -> None:
    case = some_case(rng)
    logits = far_apart(case.logits(2, torch.bfloat16), tmp_path)
    target, options = targets_of(case, kind, 2, "nodes")
    if kind == "probabilities":
        target = far_apart(target.float(), tmp_path)
    check(case, logits, target, backend, **options)


@many_rows
@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize(("eps", "dtype"), [(0.0, torch.float32), (1e-6, torch.bfloat16)], ids=str)
def test_rows_stand_alone(
    backend: Backend,
    rng: np.random.Generator,
    threads: Callable[[int], None],
    kind: str,
    eps: float,
    dtype: torch.dtype,
) -> None:
    """Rows are NaN, partly -inf, far apart, ignored, or ordinary."""
    case = TreeCase(SHAPES["nodes without classes"](rng))
    logits = case.logits(33, dtype)
    logits[::5] = torch.nan
    logits[1::5, ::2] -= 300
    logits[2::5, 1::3] = -torch.inf
    target, options = targets_of(case, kind, 33)
    if KINDS[kind][0] == "index":
        target[3::5] = -100
    table = case.target_table(**options)

    def loss_and_grad(rows: torch.Tensor) -> torch.Tensor:
        some = rows_of(target, rows)
        loss, grad = call(case, logits[rows], some, table, backend, reduction="none", eps=eps)
        return torch.cat([loss[:, None], grad.float()], 1)

    goes_alone = backend.name == "cpu" and eps == 0
    assert_rows_stand_alone(loss_and_grad, threads, backend, 2.0**-20 if goes_alone else 0.0)


@pytest.mark.not_on("triton-interpreted", reason="the interpreter has one thread")
@pytest.mark.sample(rows=[1])
@pytest.mark.parametrize("rows", [1, 4, 2000])
@pytest.mark.parametrize("kind", ["smoothed", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_threads(
    backend: Backend,
    rng: np.random.Generator,
    threads: Callable[[int], None],
    kind: str,
    reduction: str,
    rows: int,
) -> None:
    """Bits are the same from run to run and, from the kernels, for any number of threads."""
    case = large_case() if rows < 2000 and backend.name != "reference" else some_case(rng)
    logits = case.logits(rows, torch.float32)
    target, options = targets_of(case, kind, rows)
    table = case.target_table(**options)
    first = None
    for count in (1, 2):
        threads(count)
        found = [call(case, logits, target, table, backend, reduction=reduction) for _ in range(2)]
        first = first if first and backend.name == "cpu" else found[0]
        for loss, grad in found:
            assert torch.equal(loss, first[0])
            assert torch.equal(grad, first[1])


@pytest.mark.not_on(
    "triton-interpreted", reason="the interpreter patches triton.language, for all threads"
)
def test_calls_from_several_python_threads(backend: Backend) -> None:
    """Calls from several threads, as in servers, do not share scratch memory."""
    jobs = []
    for shape in FEW:
        case = TreeCase(SHAPES[shape](np.random.default_rng(0)))
        for kind in FEW_KINDS:
            target, options = targets_of(case, kind, 33)
            logits = case.logits(33, torch.float32)
            jobs.append((case, logits, target, case.target_table(**options), backend))
    alone = [call(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        for same, found in zip(3 * alone, pool.map(lambda job: call(*job), 3 * jobs), strict=True):
            torch.testing.assert_close(found, same, rtol=0, atol=0)


@pytest.mark.thorough
@many_rows
def test_gradient_larger_than_the_caches(backend: Backend) -> None:
    """Kernels may store a gradient of 40 MB, with rows at every offset, in another way."""
    case = TreeCase(trees.random_tree(np.random.default_rng(0), 10_007, roots=3))
    rows = 1056 if backend.name != "reference" else 24
    distinct = 12  # the CPU's kernels treat fewer rows in another way
    logits = case.logits(distinct, torch.float32)
    target = torch.arange(distinct)
    table = case.target_table(label_smoothing=0.1)
    one, one_grad = call(case, logits, target, table, backend, reduction="none")
    copies = rows // distinct
    loss, grad = call(
        case, logits.repeat(copies, 1), target.repeat(copies), table, backend, reduction="none"
    )
    assert torch.equal(loss.view(copies, distinct), one.expand(copies, distinct))
    assert torch.equal(grad.view(copies, distinct, -1), one_grad.expand(copies, distinct, -1))


# --- dtypes ---------------------------------------------------------------------------------------


@pytest.mark.sample(logits_dtype=[torch.float32], target_dtype=[torch.bfloat16])
@pytest.mark.parametrize("logits_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["probabilities", "pairs"])
def test_target_dtypes(
    backend: Backend,
    rng: np.random.Generator,
    kind: str,
    logits_dtype: torch.dtype,
    target_dtype: torch.dtype,
) -> None:
    """All combinations of dtypes work, and the loss has the logits' working dtype."""
    case = some_case(rng)
    target, options = targets_of(case, kind, 7)
    *index, soft = target if isinstance(target, tuple) else (target,)
    soft = soft.to(target_dtype)
    target = (*index, soft) if index else soft
    check(case, case.logits(7, logits_dtype), target, backend, **options)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(kind=["smoothed"])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(backend: Backend, rng: np.random.Generator, kind: str) -> None:
    """Autocast changes nothing: losses are computed in the precision that they promise."""
    case = some_case(rng)
    target, options = targets_of(case, kind, 9)
    logits, table = case.logits(9, torch.float32), case.target_table(**options)
    plain = call(case, logits, target, table, backend, reduction="none")
    with torch.autocast(backend.device.type, dtype=torch.bfloat16):
        found = call(case, logits, target, table, backend, reduction="none")
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-8)


def test_half_precision_loss_is_not_rounded_to_half(
    backend: Backend, rng: np.random.Generator
) -> None:
    case = some_case(rng)
    for dtype in (torch.bfloat16, torch.float16):
        table = case.target_table(label_smoothing=0.1)
        logits, target = case.logits(3, dtype), case.targets(3)
        loss, _ = call(case, logits, target, table, backend, reduction="none")
        assert loss.dtype == torch.float32
        assert not torch.equal(loss, loss.to(dtype).float())


# --- backward -------------------------------------------------------------------------------------


def bound(
    case: TreeCase, backend: Backend, table: TargetTable, **options: Any
) -> Callable[..., torch.Tensor]:
    """The op as a function of only logits and target."""
    tree, on_device = case.table.to(backend.device), table.to(backend.device)

    def loss_of(logits: torch.Tensor, target: Any) -> torch.Tensor:
        return tree_log_loss(logits, target, tree, on_device, backend=backend.name, **options)

    return loss_of


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(dtype=[torch.float16], reduction=["none"], kind=["soft pairs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["smoothed", "soft pairs"])
def test_second_backward(
    backend: Backend, rng: np.random.Generator, kind: str, reduction: str, dtype: torch.dtype
) -> None:
    """Each backward pass of one graph is right for its own incoming factor.

    The returned gradient belongs to the caller: changing it in place must not affect the next one.
    """
    case = some_case(rng, 20)
    target, options = targets_of(case, kind, 6)
    logits = case.logits(6, dtype).to(backend.device).requires_grad_()
    loss_of = bound(case, backend, case.target_table(**options), reduction=reduction)
    loss = loss_of(logits, to_device(target, backend.device))
    for factor in (3.0, 1.0, 1.0, -0.25):
        incoming = torch.full_like(loss, factor)
        answer = expected(case, logits, target, reduction=reduction, incoming=factor, **options)
        (grad,) = torch.autograd.grad(loss, logits, incoming, retain_graph=True)
        assert_grad_close(grad, answer, output_roundings=2, roundings=16 + case.depth)
        grad.fill_(7)
        logits.grad = None
        loss.backward(incoming, retain_graph=True)
        assert_grad_close(logits.grad, answer, output_roundings=2, roundings=16 + case.depth)
        logits.grad.fill_(7)


@pytest.mark.sample(dtype=[torch.bfloat16], kind=["soft by depth", "soft pairs"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", FEW_KINDS)
def test_incoming_gradients_differ_by_row(
    backend: Backend, rng: np.random.Generator, kind: str, dtype: torch.dtype
) -> None:
    case = some_case(rng)
    target, options = targets_of(case, kind, 6)
    incoming = torch.tensor([1.0, 0.0, -2.0, 1e-3, 100.0, 1.0])
    logits = case.logits(6, dtype)
    check(case, logits, target, backend, reduction="none", incoming=incoming, **options)
    # The gradient of .sum() is one number for all rows, with a stride of 0.
    check(case, logits, target, backend, reduction="none", incoming=2.0, **options)


@pytest.mark.sample(dtype=[torch.float16], factor=[65536.0], reduction=["mean"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("factor", [65536.0, 2.0**-10, 0.0])
def test_scaled_loss(backend: Backend, reduction: str, factor: float, dtype: torch.dtype) -> None:
    """A GradScaler's factor applies before the gradient is rounded, so small entries survive."""
    case = TreeCase(trees.balanced([4, 5]))
    rows = 16
    logits = case.logits(rows, dtype, scale=1.0)
    logits[:, :5] -= 16
    factor = factor / rows if reduction != "mean" else factor
    target = torch.arange(rows) % 15 + 5
    target = torch.nn.functional.one_hot(target, 20).double()
    options: dict[str, Any] = {"reduction": reduction, "incoming": factor}
    _loss, grad = call(case, logits, target, case.target_table(), backend, **options)
    assert_grad_close(grad, expected(case, logits, target, **options), output_roundings=2)
    if factor > 1:
        assert (grad != 0).all(), "entries were flushed to zero before they were scaled"


def test_two_losses_of_the_same_logits(backend: Backend, rng: np.random.Generator) -> None:
    case = some_case(rng, 20)
    logits = case.logits(6, torch.float32).to(backend.device).requires_grad_()
    answers = []
    total = torch.zeros((), device=backend.device)
    for kind, factor in (("smoothed", 2.0), ("probabilities", 1.0)):
        target, options = targets_of(case, kind, 6)
        loss_of = bound(case, backend, case.target_table(**options), reduction="sum")
        total = total + factor * loss_of(logits, to_device(target, backend.device))
        answers.append(expected(case, logits, target, reduction="sum", incoming=factor, **options))
    total.backward()
    one, two = answers
    both = replace(one, grad=one.grad + two.grad, grad_scale=one.grad_scale + two.grad_scale)
    assert_grad_close(logits.grad, both, roundings=40)


def test_expanded_logits_sum_their_gradient(backend: Backend, rng: np.random.Generator) -> None:
    case = some_case(rng, 20)
    row = case.logits(1, torch.float64).to(backend.device).requires_grad_()
    target = case.probabilities(5)
    loss_of = bound(case, backend, case.target_table(), reduction="sum")
    loss_of(row.expand(5, -1), target.to(backend.device)).backward()
    answer = expected(case, row.expand(5, -1), target, reduction="sum")
    exact = torch.from_numpy(answer.grad.sum(0).astype(float))
    torch.testing.assert_close(row.grad[0].cpu(), exact, rtol=1e-13, atol=1e-14)


@pytest.mark.sample(how=["constant"])
@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "constant"])
@pytest.mark.parametrize("kind", ["smoothed", "probabilities"])
def test_no_gradient_work_without_a_gradient(
    backend: Backend, rng: np.random.Generator, kind: str, how: str
) -> None:
    case = some_case(rng)
    target, options = targets_of(case, kind, 4)
    logits = case.logits(4, torch.float32).to(backend.device).requires_grad_()
    loss_of = bound(case, backend, case.target_table(**options))
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(
        how, torch.enable_grad
    )
    with context(), Watch() as watch:
        loss = loss_of(
            logits.detach() if how == "constant" else logits, to_device(target, backend.device)
        )
    assert not loss.requires_grad
    assert all(logits.numel() not in sizes for sizes in watch.sizes)
    answer = expected(case, logits, target, **options)
    assert_loss_close(loss, answer, torch.float32, 40)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(kind=["soft pairs"], eps=[1e-2])
@pytest.mark.parametrize(
    ("kind", "eps"),
    [
        *((kind, 0.0) for kind in KINDS),
        *((kind, 1e-2) for kind in FEW_KINDS),
        *thoroughly(*((kind, 1e-2) for kind in KINDS if kind not in FEW_KINDS)),
    ],
)
def test_gradcheck(backend: Backend, rng: np.random.Generator, kind: str, eps: float) -> None:
    """First and second derivatives agree with finite differences, for different reductions."""
    reduction = REDUCTIONS[list(KINDS).index(kind) % 3]
    case = TreeCase(trees.random_tree(rng, 6, roots=2, inner=0.4, shuffle=True))
    target, options = targets_of(case, kind, 3, "nodes")
    logits = case.logits(3, torch.float64).to(backend.device).requires_grad_()
    table = case.target_table(**options)
    loss_of = bound(case, backend, table, reduction=reduction, eps=eps)
    on_device = to_device(target, backend.device)
    assert torch.autograd.gradcheck(lambda x: loss_of(x, on_device), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: loss_of(x, on_device), (logits,))


@pytest.mark.thorough_on("triton")
def test_gradgradcheck_across_an_underflowing_subtree(backend: Backend) -> None:
    """Double backward stays exact in log space: the target's logit is 1,000 below the others."""
    case = TreeCase(trees.balanced([2, 3]))
    logits = torch.randn(2, 6, dtype=torch.float64, device=backend.device)
    logits[:, :3] -= 1000
    loss_of = bound(case, backend, case.target_table(label_smoothing=0.1), reduction="sum")
    target = torch.zeros(2, dtype=torch.long, device=backend.device)
    assert torch.autograd.gradgradcheck(lambda x: loss_of(x, target), (logits.requires_grad_(),))


def test_gradient_penalty(backend: Backend, rng: np.random.Generator) -> None:
    """The gradient of the squared gradient norm is that of the dense formula."""
    case = some_case(rng, 15, shuffle=True)
    logits = case.logits(5, torch.float64).to(backend.device).requires_grad_()
    target = case.probabilities(5)
    mass, _ = oracle.target_mass(case.tree, target)
    q = torch.from_numpy((mass @ oracle.dilution_weights(case.labels, 0.7)).astype(float))
    reach = torch.from_numpy(case.labels.reach().T.astype(float)).to(backend.device)

    def penalty(loss: torch.Tensor) -> torch.Tensor:
        (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), logits)[0]

    dense = penalty(-(q.to(backend.device) * (logits.softmax(1) @ reach).log()).sum())
    loss_of = bound(case, backend, case.target_table(), reduction="sum")
    found = penalty(loss_of(logits, target.to(backend.device)))
    torch.testing.assert_close(found, dense, rtol=1e-10, atol=1e-12)


@pytest.mark.sample(reduction=["mean"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["probabilities over others", "soft pairs", "smoothed pairs"])
def test_gradient_of_a_target(
    backend: Backend, rng: np.random.Generator, kind: str, reduction: str
) -> None:
    """A target that requires a gradient gets one, together with the logits and alone."""
    case = TreeCase(trees.random_tree(rng, 6, roots=2, inner=0.4, shuffle=True))
    target, options = targets_of(case, kind, 3)
    index = target[0].to(backend.device) if isinstance(target, tuple) else None
    soft = target[1] if isinstance(target, tuple) else target
    soft = soft.double().to(backend.device).requires_grad_()
    loss_of = bound(case, backend, case.target_table(**options), reduction=reduction)

    def loss(logits: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        return loss_of(logits, soft if index is None else (index, soft))

    logits = case.logits(3, torch.float64).to(backend.device)
    assert torch.autograd.gradcheck(loss, (logits, soft))
    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), soft))
    with torch.no_grad():
        constant = loss(logits, soft)
    torch.testing.assert_close(constant, loss(logits, soft.detach()).detach())


# --- the raw op and the compiler ------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize(
    ("kind", "reduction", "with_grad", "dtype"),
    [
        ("index", 0, False, torch.float32),
        ("smoothed", 1, True, torch.bfloat16),
        ("probabilities over others", 1, True, torch.float32),
        ("soft pairs", 2, True, torch.float64),
        *thoroughly(
            ("smoothed", 0, True, torch.float64),
            ("soft by depth", 2, True, torch.float32),
            ("probabilities over others", 0, False, torch.float16),
            ("soft pairs", 2, True, torch.bfloat16),
            ("soft pairs", 0, False, torch.float64),
        ),
    ],
)
def test_opcheck(
    rng: np.random.Generator, kind: str, reduction: int, with_grad: bool, dtype: torch.dtype
) -> None:
    case = some_case(rng, 12)
    target, options = targets_of(case, kind, 5)
    weight = torch.rand(case.num_classes, dtype=torch.float64)
    table = case.target_table(weight=weight, **options)
    mass, index, index_weight = None, None, None
    if isinstance(target, tuple):
        index, index_weight = target
    elif target.is_floating_point():
        mass = target.to(working_dtype(dtype))
    else:
        index = target[:, None]
    arguments = (
        case.logits(5, dtype).requires_grad_(with_grad),
        mass,
        index,
        index_weight,
        [*case.table[:-1]],
        case.table.level_ptr,
        table.tensors,
        table.row_spread,
        -100,
        reduction,
        0.0,
        with_grad,
    )
    torch.library.opcheck(torch.ops.hace_kernels.tree_log_loss.default, arguments)
    loss, grad = torch.ops.hace_kernels.tree_log_loss(*arguments)
    assert grad.numel() == (arguments[0].numel() if with_grad else 0)
    assert loss.dtype == working_dtype(dtype)


@pytest.mark.thorough_on("reference", "triton")
@pytest.mark.sample(reduction=["none"])
@pytest.mark.parametrize(
    ("kind", "reduction"),
    [("smoothed", "mean"), ("probabilities over others", "none"), ("smoothed pairs", "sum")],
)
def test_compiled(backend: Backend, rng: np.random.Generator, kind: str, reduction: str) -> None:
    """It is compiled once for all batch sizes, forward and backward in one graph."""
    torch._dynamo.reset()
    case = some_case(rng, 12)
    options = KINDS[kind][1]
    counter = CompileCounterWithBackend("aot_eager")
    table = case.target_table(target=targets_of(case, kind, 1)[0], **options)
    loss_of = bound(case, backend, table, reduction=reduction)
    compiled = torch.compile(loss_of, fullgraph=True, backend=counter)
    for rows in (4, 17, 2):
        target, _ = targets_of(case, kind, rows)
        logits = case.logits(rows, torch.float32).to(backend.device).requires_grad_()
        on_device = to_device(target, backend.device)
        parts = on_device if isinstance(on_device, tuple) else (on_device,)
        for part in (logits, *parts):
            torch._dynamo.mark_dynamic(part, 0)
        loss = compiled(logits, on_device)
        incoming = torch.linspace(-1, 2, loss.numel(), device=loss.device).view_as(loss)
        (grad,) = torch.autograd.grad(loss, logits, incoming)
        answer = expected(
            case, logits, target, reduction=reduction, incoming=incoming.cpu().numpy(), **options
        )
        assert_loss_close(loss.detach(), answer, torch.float32, 40)
        assert_grad_close(grad, answer, output_roundings=2, roundings=40)
    assert counter.frame_count == 1


def test_compiled_with_inductor(rng: np.random.Generator) -> None:
    """The op works inside a graph, where the operations before and after it are fused.

    The backend is that of `auto`. Compiling the reference is slow; test_tree_log_prob.py does it.
    """
    torch._dynamo.reset()
    case = some_case(rng, 12)
    features = torch.randn(6, 8)
    layer = torch.randn(8, case.num_classes).requires_grad_()
    target = case.targets(6)
    auto = Backend("auto", torch.device("cpu"))
    loss_of = bound(case, auto, case.target_table(label_smoothing=0.1))

    def step(layer: torch.Tensor) -> torch.Tensor:
        return 3 * loss_of((features @ layer).tanh() * 4, target) + 1

    eager = step(layer)
    (eager_grad,) = torch.autograd.grad(eager, layer)
    loss = torch.compile(step, fullgraph=True)(layer)
    (grad,) = torch.autograd.grad(loss, layer)
    torch.testing.assert_close(loss, eager, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad, eager_grad, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough_on("reference", "cuda", "triton")
@kernels_give_nan
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_compiled_target_out_of_range(backend: Backend, rng: np.random.Generator, bad: int) -> None:
    torch._dynamo.reset()
    case = some_case(rng, 12)
    loss_of = bound(case, backend, case.target_table(label_smoothing=0.1))
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    logits, target = case.logits(4, torch.float32), case.targets(4)
    target[3] = bad
    if backend.name == "reference":  # compiled PyTorch operations cannot raise
        assert compiled(logits, target).isnan()
    else:
        with pytest.raises((RuntimeError, IndexError), match=str(bad)):
            compiled(logits, target)


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.sample(bad=[-1, 2**40], requires_grad=[True])
@pytest.mark.parametrize("bad", [-1, -101, 50, 2**31, 2**40, -(2**40), 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("form", ["index", "soft", "pairs", "soft pairs", "weightless pairs"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_target_out_of_range(backend: Backend, form: str, bad: int, requires_grad: bool) -> None:
    """The error names the row and the range, also for pairs, even if the weight is 0."""
    case = TreeCase(trees.balanced([5, 10]))
    options = {"soft_label_beta": 2.0} if "soft" in form else {"label_smoothing": 0.1}
    logits = case.logits(4, torch.float32).to(backend.device).requires_grad_(requires_grad)
    index = case.targets(4)
    index[2] = bad
    target: Any = index.to(backend.device)
    if "pairs" in form:
        weight = torch.zeros(4, 2) if form == "weightless pairs" else torch.ones(4, 2) / 2
        target = (torch.stack([case.targets(4), index], 1), weight)
        target = to_device(target, backend.device)
    loss_of = bound(case, backend, case.target_table(**options), reduction="none")
    if not backend.names_bad_targets:
        assert loss_of(logits, target)[2].isnan()
        return
    with pytest.raises(IndexError, match=rf"{bad}\b.*row 2\b") as caught:
        loss_of(logits, target)
    assert "50" in str(caught.value), "names no range"


@kernels_give_nan
@pytest.mark.parametrize("form", ["index", "soft", "pairs", "probabilities"])
@pytest.mark.parametrize("row", [0, 20])
def test_target_with_no_class_below_it(backend: Backend, form: str, row: int) -> None:
    """The error names the target wherever it is in the batch; without mass there is no error."""
    tree = trees.Tree(np.array([-1, 0, 0, 2, -1]), np.array([1, 4]))
    case = TreeCase(tree)
    options = {"soft_label_beta": 2.0} if form == "soft" else {}
    loss_of = bound(case, backend, case.target_table(target_space="nodes", **options))
    logits = case.logits(33, torch.float32)
    fine = torch.zeros(33, dtype=torch.long)
    for empty in (2, 3):
        index = fine.clone()
        index[row] = empty
        target: Any = index
        if form == "pairs":
            target = (torch.stack([fine, index], 1), torch.ones(33, 2))
        elif form == "probabilities":
            target = torch.nn.functional.one_hot(index, 5).float()
        with pytest.raises(IndexError, match=rf"\b{empty} of row {row}\b"):
            loss_of(logits, target)
        with pytest.raises(IndexError, match=rf"\b{empty} of row {row}\b"):
            loss_of(logits.clone().requires_grad_(), target)
    if form == "probabilities":
        check(
            case,
            logits,
            torch.nn.functional.one_hot(fine, 5).float(),
            backend,
            target_space="nodes",
        )


@pytest.mark.parametrize(
    "change",
    [
        {"logits": torch.randn(4, 49)},
        {"logits": torch.randn(4, 51)},
        {"logits": torch.randn(50)},
        {"logits": torch.randn(5, 50)},
        {"logits": torch.zeros(4, 50, dtype=torch.long)},
        {"target": torch.zeros(4, 1, dtype=torch.long)},
        {"target": torch.zeros(4)},
        {"target": torch.zeros(4, 49)},
        {"target": torch.zeros(3, 50)},
        {"target": torch.zeros(4, dtype=torch.int32)},
        {"target": torch.zeros(4, 50, dtype=torch.bool)},
        {"target": (torch.zeros(4, dtype=torch.long), torch.zeros(4))},
        {"target": (torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 3))},
        {"target": (torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 2))},
        {"target": (torch.zeros(4, 2, dtype=torch.int32), torch.zeros(4, 2))},
        {"target": (torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 2, dtype=torch.long))},
        {"reduction": "average"},
        {"backend": "fortran"},
        {"eps": -1e-6},
        {"eps": float("inf")},
        {"eps": float("nan")},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_wrong_arguments(backend: Backend, change: dict[str, Any]) -> None:
    case = TreeCase(trees.flat(50))
    arguments: dict[str, Any] = {
        "logits": case.logits(4, torch.float32),
        "target": case.targets(4),
        "backend": backend.name,
        **change,
    }
    with pytest.raises((ValueError, TypeError)):
        tree_log_loss(tree=case.table, table=case.target_table(), **arguments)


@needs_native
@pytest.mark.parametrize("array", ["place", "keep", "unit", "share", "spread"])
def test_target_tables_that_are_none(array: str) -> None:
    case = TreeCase(trees.balanced([3, 4]))
    table = case.target_table(label_smoothing=0.1, smoothing="others")
    given = getattr(table, array)
    wrong = [given[:-1], given.float(), given[None]]
    if array == "place":
        wrong = [torch.full_like(given, case.table.num_places - 1), given.long()]
    for broken in wrong:
        with pytest.raises(RuntimeError, match=array):
            tree_log_loss(
                case.logits(2, torch.float32),
                case.targets(2),
                case.table,
                table._replace(**{array: broken}),
                backend="cpu",
            )


def test_probabilities_have_no_soft_labels(backend: Backend) -> None:
    case = TreeCase(trees.flat(5))
    loss_of = bound(case, backend, case.target_table(soft_label_beta=2.0))
    with pytest.raises(ValueError, match="soft labels"):
        loss_of(torch.randn(2, 5).to(backend.device), torch.rand(2, 5).to(backend.device))
