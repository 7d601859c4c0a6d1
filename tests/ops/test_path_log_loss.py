"""`path_log_loss` agrees with the oracle for all kinds of trees, inputs, options and layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import trees
from backend import Backend, kernels_give_nan, many_rows
from cases import (
    DTYPES,
    Case,
    call,
    check,
    expected,
    in_column_order,
    interval_case,
    tree_case,
)
from oracle import ROUNDOFF, assert_grad_close, assert_loss_close, to_real

from hace_kernels.ops import path_log_loss

pytestmark = pytest.mark.parity

TREES: dict[str, Callable[[np.random.Generator], trees.Tree]] = {
    "flat": lambda rng: trees.flat(13),
    "flat forest": lambda rng: trees.flat(13, rooted=False),
    "star of stars": lambda rng: trees.balanced([5, 7], rooted=True),
    "balanced forest": lambda rng: trees.balanced([3, 2, 4]),
    "caterpillar": lambda rng: trees.caterpillar(40),
    "tree": lambda rng: trees.random_tree(rng, 50),
    "forest": lambda rng: trees.random_tree(rng, 50, roots=6),
    "inner classes": lambda rng: trees.random_tree(rng, 40, roots=2, inner=0.5),
    "shuffled": lambda rng: trees.random_tree(rng, 50, roots=6, shuffle=True),
    "shuffled inner classes": lambda rng: trees.random_tree(rng, 40, inner=0.5, shuffle=True),
    "nodes": lambda rng: trees.random_tree(rng, 40, roots=2).in_node_mode(),
}


def some_case(rng: np.random.Generator, leaves: int = 50, shuffle: bool = False) -> Case:
    return tree_case(trees.random_tree(rng, leaves, roots=3, shuffle=shuffle))


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.sample(shape=["inner classes", "shuffled inner classes"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", TREES)
def test_trees(backend: Backend, rng: np.random.Generator, shape: str, dtype: torch.dtype) -> None:
    tree = TREES[shape](rng)
    for dilution in (0.2, 0.7, 1.0):
        case = tree_case(tree, dilution)
        check(case, case.logits(9, dtype), case.targets(9), backend)


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", ["forest", "shuffled inner classes", "nodes"])
def test_coarse_targets(
    backend: Backend, rng: np.random.Generator, shape: str, dtype: torch.dtype
) -> None:
    """Every node is a target: leaves, inner nodes, and roots, whose log P may be 0."""
    tree = TREES[shape](rng)
    case = tree_case(tree, nodes=np.arange(tree.num_nodes))
    check(case, case.logits(tree.num_nodes, dtype), torch.arange(tree.num_nodes), backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_weights(backend: Backend, rng: np.random.Generator, dtype: torch.dtype) -> None:
    """Any table defines a loss, with weights of any size and sign, not only HACE's."""
    paths = []
    for leaf in range(60):
        widths = np.unique(rng.integers(1, 59, size=4))
        start, stop, path = leaf, leaf + 1, []
        for width in widths:
            left = int(rng.integers(0, width + 1))
            start, stop = max(0, start - left), min(60, stop + int(width) - left)
            path.append((start, stop, float(rng.normal() * 10.0 ** rng.integers(-3, 3))))
        paths.append(path)
    case = interval_case(60, paths)
    check(case, case.logits(60, dtype), torch.arange(60), backend)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(dtype=[torch.bfloat16], shuffle=[False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_widths(
    backend: Backend, rng: np.random.Generator, shuffle: bool, dtype: torch.dtype
) -> None:
    """Widths are around every vector size and its remainders."""
    for width in [*range(1, 71), *range(127, 132), 1000]:
        tree = trees.random_tree(rng, width, roots=min(2, width), shuffle=shuffle)
        case = tree_case(tree)
        check(case, case.logits(3, dtype), case.targets(3), backend)


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_interval(backend: Backend, dtype: torch.dtype) -> None:
    """The inner interval's ends are at every offset from those of the outer one and the row."""
    width = 40
    paths = [
        [(start, stop, 0.6), (min(start, 5), max(stop, 37), 0.4)]
        for start in range(width)
        for stop in range(start + 1, width + 1)
        if (min(start, 5), max(stop, 37)) not in {(start, stop), (0, width)}
    ]
    case = interval_case(width, paths)
    check(case, case.logits(len(paths), dtype), torch.arange(len(paths)), backend)


@pytest.mark.thorough_on("triton")
def test_deep_path(backend: Backend) -> None:
    """A path of 2,000 intervals."""
    case = interval_case(2001, [[(0, stop, 1 / stop) for stop in range(1, 2001)]])
    check(case, case.logits(2, torch.float32), torch.tensor([0, 0]), backend, roundings=64)


# --- options --------------------------------------------------------------------------------------


@pytest.mark.sample(dtype=[torch.float32, torch.float64], reduction=["mean", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_options(
    backend: Backend,
    rng: np.random.Generator,
    dtype: torch.dtype,
    reduction: str,
    shuffle: bool,
    eps: float,
) -> None:
    tree = trees.random_tree(rng, 50, shuffle=shuffle)
    case = tree_case(tree, keep_full=eps > 0)
    weight = torch.rand(case.num_targets).to(
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    weight[::7] = 0
    for target_weight in (None, weight):
        for ignore_index in (-100, 3):
            target = case.targets(20)
            target[::6] = ignore_index
            check(
                case,
                case.logits(20, dtype),
                target,
                backend,
                reduction=reduction,
                target_weight=target_weight,
                ignore_index=ignore_index,
                eps=eps,
                incoming=torch.randn(20) if reduction == "none" else 1.0,
            )


def test_mean_is_the_default(rng: np.random.Generator) -> None:
    case = some_case(rng)
    logits, target = case.logits(5, torch.float32), case.targets(5)
    loss = path_log_loss(logits, target, case.table, backend="auto")
    assert_loss_close(loss, expected(case, logits, target, reduction="mean"), torch.float32)


def eps_rows(case: Case, gaps: list[float], dtype: torch.dtype) -> torch.Tensor:
    """Rows where the target y, and in the second half its top-level subtree, is a gap below."""
    logits = case.logits(24, dtype)
    gap = torch.tensor(gaps).repeat(24 // len(gaps))
    logits[torch.arange(24), torch.arange(24)] -= gap.to(dtype)
    logits[12:, 12:] -= gap[12:, None].to(dtype)
    return logits


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_eps_where_it_decides(backend: Backend, dtype: torch.dtype, eps: float) -> None:
    """For subtrees far below eps, the loss is at most -log(eps) and the gradient fades."""
    case = tree_case(trees.balanced([2, 3, 4]), keep_full=True)
    check(case, eps_rows(case, [0, 5, 14, 30], dtype), torch.arange(24), backend, eps=eps)
    logits = eps_rows(case, [60, 100, 1000], dtype)
    loss, grad = call(case, logits, torch.arange(24), backend, reduction="none", eps=eps)
    answer = expected(case, logits, torch.arange(24), reduction="none", eps=eps)
    assert_loss_close(loss, answer, dtype)
    relative = 2 * ROUNDOFF[dtype] + (1e-11 if dtype == torch.float64 else 1e-5)
    flushed = 2.0**-25 if dtype == torch.float16 else 1e-18
    assert (np.abs(to_real(grad) - answer.grad) <= relative * answer.grad_scale + flushed).all()


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", ["forest", "shuffled"])
def test_gaps_with_eps(
    backend: Backend, rng: np.random.Generator, shape: str, dtype: torch.dtype
) -> None:
    """Gradients are as exact as P where targets are 10 or more below the largest logit."""
    tree = TREES[shape](rng)
    for dilution in (0.7, 1.0):
        case = tree_case(tree, dilution, keep_full=True)
        logits, target = case.logits(100, dtype), torch.arange(100) % case.num_targets
        for row in range(100):
            path = tree.path(tree.classes[target[row]])
            below = tree.reach()[path[min(row // 50, len(path) - 1)]]
            logits[row, torch.from_numpy(below)] -= 10 + row
        check(case, logits, target, backend, eps=1e-6, reduction="none")


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ignored_rows_may_hold_anything(
    backend: Backend, rng: np.random.Generator, dtype: torch.dtype
) -> None:
    case = some_case(rng)
    logits, target = case.logits(6, dtype), case.targets(6)
    clean = logits.clone()
    logits[1], logits[3, 2], logits[4] = torch.nan, torch.inf, -torch.inf
    target[[1, 3, 4]] = -100
    for reduction in ("mean", "sum"):
        loss = path_log_loss(
            logits.to(backend.device),
            target.to(backend.device),
            case.table.to(backend.device),
            reduction=reduction,
            backend=backend.name,
        )
        assert_loss_close(loss, expected(case, clean, target, reduction=reduction), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [0, 4], ids=["empty", "all ignored"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_to_average(
    backend: Backend, rng: np.random.Generator, dtype: torch.dtype, rows: int, reduction: str
) -> None:
    """As in F.cross_entropy, the mean is NaN, the sum 0, and the gradient of ignored rows 0."""
    case = some_case(rng)
    logits, target = case.logits(rows, dtype), torch.full((rows,), -100)
    check(case, logits, target, backend, reduction=reduction)
    plain = torch.nn.functional.cross_entropy(logits.float(), target, reduction=reduction)
    answer = expected(case, logits, target, reduction=reduction)
    np.testing.assert_array_equal(plain.numpy(), answer.loss.astype(np.float32))


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tree", [trees.chain(1), trees.chain(5), trees.flat(1, rooted=False)])
def test_one_class(backend: Backend, tree: trees.Tree, dtype: torch.dtype) -> None:
    """log P = 0 whatever the logit, so the path is empty and loss and gradient are 0."""
    case = tree_case(tree)
    check(case, case.logits(3, dtype), torch.zeros(3, dtype=torch.long), backend)


# --- memory layouts -------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second row": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "every second column": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "columns of a wider one": lambda x: torch.nn.functional.pad(x, (3, 5), value=9e3)[:, 3:-5],
    "one element in": lambda x: torch.nn.functional.pad(x, (1, 0), value=9e3)[:, 1:],
    "storage offset": lambda x: torch.cat([x.new_full((1,), 9e3), x.flatten()])[1:].view_as(x),
    "rows all the same": lambda x: x[:1].expand_as(x),
    "columns all the same": lambda x: x[:, :1].expand_as(x),
    "reshaped from 3-d": lambda x: x.t().contiguous().view(x.shape[1], 2, -1).permute(1, 2, 0)[1],
}


@pytest.mark.sample(dtype=[torch.bfloat16], shuffle=[True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_layouts(
    backend: Backend, rng: np.random.Generator, layout: str, shuffle: bool, dtype: torch.dtype
) -> None:
    for leaves in (7, 50, 129):
        case = some_case(rng, leaves, shuffle)
        logits = LAYOUTS[layout](case.logits(6, dtype).to(backend.device))
        check(case, logits, case.targets(len(logits)), backend, reduction="mean")


def test_strided_targets(backend: Backend, rng: np.random.Generator) -> None:
    case = some_case(rng)
    pairs = torch.stack([case.targets(8), torch.full((8,), 999)], dim=1).to(backend.device)
    check(case, case.logits(8, torch.float32), pairs[:, 0], backend)
    check(case, case.logits(8, torch.float32), case.targets(1).expand(8), backend)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_many_rows_of_few_classes(
    backend: Backend, rng: np.random.Generator, dtype: torch.dtype
) -> None:
    case = tree_case(trees.balanced([2, 2]))
    target = case.targets(20_000)
    target[rng.integers(0, 20_000, 500)] = -100
    check(case, case.logits(20_000, dtype), target, backend, reduction="none")
    check(case, case.logits(20_000, dtype), target, backend, reduction="mean")


@pytest.mark.thorough
@pytest.mark.not_on("reference", reason="PyTorch stores its results")
@many_rows
@pytest.mark.parametrize(
    ("width", "shuffle"), [(10_007, False), (140_003, True)], ids=["ordered", "shuffled"]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_larger_than_the_caches(
    backend: Backend, rng: np.random.Generator, dtype: torch.dtype, width: int, shuffle: bool
) -> None:
    """Kernels may store gradients of 40 MB and more, with rows at every offset, in another way."""
    distinct = 7
    paths = [
        [(leaf, leaf + 1, 0.5), (leaf - 3, leaf + 2, 0.3), (8, width - 8, 0.2)]
        for leaf in (50, 9000)
    ]
    case = interval_case(width, paths)
    if shuffle:
        case = in_column_order(case, rng.permutation(width))
    copies = 42 * 2**20 // (distinct * width * dtype.itemsize)
    few, target = case.logits(distinct, dtype), torch.arange(distinct) % 2
    loss, grad = call(case, few.repeat(copies, 1), target.repeat(copies), backend, reduction="none")
    answer = expected(case, few, target, reduction="none")
    grad = grad.view(copies, distinct, width)
    for copy in (0, 1, copies - 1):
        assert_loss_close(loss.view(copies, distinct)[copy], answer, dtype)
        assert_grad_close(grad[copy], answer)
    # CUDA's order of summing depends on a row's alignment, which repeats every 16 rows.
    alike = grad[:: 16 if backend.name == "cuda" else 1]
    assert torch.equal(alike, alike[:1].expand_as(alike)), "equal rows have different gradients"


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.sample(bad=[-1, 50, 2**40, -(2**63)])
@pytest.mark.parametrize("bad", [-1, -101, 50, 51, 2**31, 2**40, -(2**40), 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_target_out_of_range(
    backend: Backend, rng: np.random.Generator, bad: int, reduction: str
) -> None:
    case = some_case(rng)
    logits = case.logits(4, torch.float32).to(backend.device)
    target = case.targets(4).to(backend.device)
    target[2] = bad
    options: dict[str, Any] = {"reduction": reduction, "backend": backend.name}
    table = case.table.to(backend.device)
    if backend.names_bad_targets:
        for requires_grad in (False, True):
            with pytest.raises(IndexError, match=rf"{bad}\b") as caught:
                path_log_loss(logits.requires_grad_(requires_grad), target, table, **options)
            assert "50" in str(caught.value) or "49" in str(caught.value), "names no range"
    else:
        loss = path_log_loss(logits, target, table, **options)
        assert loss[2].isnan() if reduction == "none" else loss.isnan()


def test_out_of_range_target_beside_ignored_ones(
    backend: Backend, rng: np.random.Generator
) -> None:
    """-1 is accepted if it is the ignore_index, and then -100 is not."""
    case = some_case(rng)
    logits, target = case.logits(4, torch.float32), case.targets(4)
    target[1] = -1
    check(case, logits, target, backend, ignore_index=-1)
    target[2] = -100
    if backend.names_bad_targets:
        with pytest.raises(IndexError, match="-100"):
            path_log_loss(logits, target, case.table, ignore_index=-1, backend=backend.name)


@kernels_give_nan
def test_target_with_no_class_below_it(backend: Backend) -> None:
    """Such a target has one empty interval in the table, which the op refuses."""
    case = interval_case(2, [[(0, 1, 0.7)], [(1, 2, 0.7)], [(1, 1, 1.0)]])
    logits = torch.randn(2, 2)
    with pytest.raises(IndexError, match=r"\b2\b"):
        path_log_loss(logits, torch.tensor([0, 2]), case.table, backend=backend.name)
    check(case, logits, torch.tensor([0, 1]), backend)


@pytest.mark.parametrize(
    "change",
    [
        {"logits": torch.randn(4, 49)},
        {"logits": torch.randn(4, 51)},
        {"logits": torch.randn(4)},
        {"logits": torch.randn(5, 50)},
        {"target": torch.zeros(4, 1, dtype=torch.long)},
        {"target": torch.zeros(4)},
        {"logits": torch.zeros(4, 50, dtype=torch.long)},
        {"reduction": "average"},
        {"target_weight": torch.ones(49)},
        {"backend": "fortran"},
        {"eps": -1e-6},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_wrong_arguments(rng: np.random.Generator, change: dict[str, Any]) -> None:
    case = some_case(rng)
    arguments: dict[str, Any] = {"logits": case.logits(4, torch.float32), "target": case.targets(4)}
    arguments.update(change)
    with pytest.raises((ValueError, TypeError)):
        path_log_loss(table=case.table, **arguments)
