"""Features of only the Triton kernels: rows split over programs, own ops, NaN for bad targets.

They run in Triton's interpreter, like the parity suite with `--backend=triton-interpreted`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cases
import dags
import numpy as np
import pytest
import test_dag_log_loss
import test_path_stages
import test_tree_log_loss
import test_tree_log_prob
import test_tree_sum
import torch
import tree_cases
import trees
from backend import Backend
from cases import DTYPES, in_column_order, interval_case
from selection import thoroughly
from tree_cases import TreeCase, some_case

import hace_kernels
from hace_kernels.ops import path_log_loss

pytestmark = pytest.mark.on("triton-interpreted")


@pytest.mark.parametrize("dtype", [torch.bfloat16, *thoroughly(*DTYPES[:2], DTYPES[3])], ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("entropy", [-0.3, *thoroughly(0.0)])
@pytest.mark.parametrize("reduction", ["mean", *thoroughly("none")])
def test_split_rows(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
    dtype: torch.dtype,
    entropy: float,
    reduction: str,
) -> None:
    """Rows of several programs, in chunks of rows, agree with the reference in float64."""
    from hace_kernels.triton import rows

    width = 20_011
    paths = [
        [(12_345, 12_346, 0.5), (10_001, 18_003, 0.3), (5, 20_000, 0.2)],
        [(20_010, 20_011, 0.5), (19_968, 20_011, 0.5)],
        [(0, 1, 0.7), (0, 14_999, 0.3)],
    ]
    case = interval_case(width, paths)
    if order == "shuffled":
        case = in_column_order(case, torch.randperm(width).numpy())
    logits, target = case.logits(4, dtype), torch.tensor([0, 1, -100, 2])
    logits[1, :9000] -= 300
    logits[3, 3:200] = -torch.inf
    x = logits.requires_grad_()
    monkeypatch.setattr(rows, "_L2_BYTES", 2 * 3 * width * dtype.itemsize)
    loss = path_log_loss(
        x, target, case.table, entropy=entropy, reduction=reduction, backend="triton"
    )
    (grad,) = torch.autograd.grad(loss.sum(), x)
    exact = logits.detach().double().requires_grad_()
    wanted = path_log_loss(
        exact, target, case.table, entropy=entropy, reduction=reduction, backend="reference"
    )
    (wanted_grad,) = torch.autograd.grad(wanted.sum(), exact)
    rtol = 1e-12 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(loss.double(), wanted, rtol=rtol, atol=0)
    rounding = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}.get(dtype, 0.0)
    bound = (2 * rtol + rounding) * wanted_grad.abs() + 2.0**-24 * (dtype == torch.float16)
    bound += rtol * wanted_grad.abs().amax(1, keepdim=True)
    assert ((grad.double() - wanted_grad).abs() <= bound).all()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_many_short_rows(backend: Backend, monkeypatch: pytest.MonkeyPatch, reduction: str) -> None:
    """Where the rings of all rows are too much memory, several launches use it in turn."""
    from hace_kernels.triton import path_log_loss as launches

    case = interval_case(9, [[(3, 4, 0.5), (2, 7, 0.3)], [(0, 1, 1.0)]])
    logits, target = case.logits(5, torch.float32), torch.tensor([0, 1, -100, 0, 1])
    monkeypatch.setattr(launches, "_RING_BYTES", 2 * 4 * 8 * 4)  # of two rows
    cases.check(case, logits, target, backend, reduction=reduction)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_entropy(backend: Backend, order: str, eps: float, dtype: torch.dtype) -> None:
    case = interval_case(50, [[(20, 21, 0.4), (18, 23, 0.3), (10, 40, 0.3)]])
    if order == "shuffled":
        case = in_column_order(case, torch.randperm(50).numpy())
    logits = case.logits(5, dtype)
    logits[1] += 1e4
    logits[2, 5:35] = -torch.inf
    logits[3, 15:] -= 200
    logits[4, 15:25] = torch.finfo(dtype).max / 2
    logits[4, 30:] = torch.finfo(dtype).min  # the difference to the others overflows
    found = []
    for name in ("triton", "reference"):
        x = logits.double() if name == "reference" else logits.clone()
        x.requires_grad_()
        loss = path_log_loss(
            x, torch.zeros(5, dtype=torch.long), case.table, entropy=0.7, eps=eps,
            reduction="none", backend=name,
        )  # fmt: skip
        (grad,) = torch.autograd.grad(loss[loss.isfinite()].sum(), x)
        found.append((loss.double(), grad.double()))
    rtol = 1e-11 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found[0][0], found[1][0], rtol=rtol, atol=rtol)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=rtol, atol=rtol * 0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, *thoroughly(*DTYPES[:2], DTYPES[3])], ids=str)
@pytest.mark.parametrize("entropy", [0.3, *thoroughly(0.0)])
def test_tiles_of_columns(backend: Backend, dtype: torch.dtype, entropy: float) -> None:
    """The stages are right for intervals that end beside a tile's border, without mass, or NaN."""
    paths = [
        [(5, 6, 0.5), (4, 12, 0.3), (0, 20, 0.2)],
        [(20, 21, 0.5), (7, 30, 0.5)],
        [(12, 16, 0.7), (12, 40, 0.3)],
    ]
    case = interval_case(40, paths)
    logits, target = 3 * case.logits(5, dtype), torch.tensor([0, 1, 2, -100, 0])
    logits[1] += 1e4
    logits[2, 12:16] = -torch.inf
    logits[3] = torch.nan
    logits[4, 30:] = -torch.finfo(dtype).max
    results = [
        test_path_stages.by_tiles(case, logits, target, each, [12, 13, 30], entropy=entropy)
        for each in (backend, Backend("reference", backend.device))
    ]
    rtol = 1e-12 if dtype == torch.float64 else 3e-6
    rounding = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}.get(dtype, 0.0)
    counts = target != -100
    for index, (found, wanted) in enumerate(zip(*results, strict=True)):
        more = 2 * rounding if index == 2 else 0.0
        torch.testing.assert_close(
            found[counts], wanted[counts], rtol=2 * rtol + more, atol=rtol, equal_nan=True
        )


@pytest.mark.parametrize("bad", [-1, 50, 2**40, -(2**63)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_wrong_target_gives_nan(backend: Backend, bad: int, reduction: str) -> None:
    """A kernel cannot raise an error: the row is NaN, and other rows are not affected."""
    case = interval_case(9, [[(i, i + 1, 0.7)] for i in range(9)] + [[(3, 3, 1.0)]])
    logits = case.logits(4, torch.float32).requires_grad_()
    for wrong in (bad, 9):
        target = torch.tensor([3, 1, wrong, 0])
        loss = path_log_loss(logits, target, case.table, reduction=reduction, backend="triton")
        (grad,) = torch.autograd.grad(loss, logits, torch.ones_like(loss))
        assert loss[2].isnan() if reduction == "none" else loss.isnan()
        assert grad[2].isnan().all()
        assert grad[[0, 1, 3]].isfinite().all()


def test_launches_are_on_the_device_of_the_tensors(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Triton launches on the current device, which with several GPUs may be another one."""
    from triton.runtime.interpreter import GridExecutor

    launch, launched, on_device = GridExecutor.__call__, 0, 0

    @contextmanager
    def device_of(x: torch.Tensor) -> Iterator[None]:
        nonlocal on_device
        assert isinstance(x, torch.Tensor)
        on_device += 1
        yield
        on_device -= 1

    def checked(self: Any, *arguments: Any, **options: Any) -> None:
        nonlocal launched
        assert on_device
        launched += 1
        launch(self, *arguments, **options)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(GridExecutor, "__call__", checked)
    of_paths = interval_case(9, [[(3, 4, 0.5), (2, 7, 0.3)]])
    logits = of_paths.logits(2, torch.float32).requires_grad_()
    target = torch.zeros(2, dtype=torch.long)
    (3 * path_log_loss(logits, target, of_paths.table, backend="triton")).backward()
    test_path_stages.by_tiles(of_paths, logits.detach(), target, backend, [5])
    case = some_case(rng, 8)
    for kind in ("smoothed", "soft pairs"):
        of_rows, options = test_tree_log_loss.targets_of(case, kind, 2)
        test_tree_log_loss.check(case, case.logits(2, torch.float32), of_rows, backend, **options)
    test_tree_log_prob.check(case, case.logits(2, torch.float32), backend)
    for op in test_tree_sum.OPS:
        values = test_tree_sum.values_for(case, op, 2, torch.float32)
        test_tree_sum.check(case, op, values, backend)
    of_dags = test_dag_log_loss.Case(dags.SHAPES["shared leaf"], rng)
    of_dags.check(of_dags.logits(2, torch.float32), of_dags.indices(2), backend)
    assert launched > 20


def test_opcheck(backend: Backend) -> None:
    case = interval_case(9, [[(i, i + 1, 0.7), (0, 8, 0.3)] for i in range(8)])
    table = case.table
    for reduction, with_grad in ((0, True), (1, True), (2, False)):
        arguments = (
            case.logits(3, torch.float32).requires_grad_(with_grad), case.targets(3), table.tensors,
            table.max_entries, None, 0.0, -100,
            reduction, 0.0, with_grad,
        )  # fmt: skip
        torch.library.opcheck(torch.ops.hace_kernels.triton_path_log_loss.default, arguments)


def test_same_bits_again(backend: Backend) -> None:
    case = interval_case(300, [[(7, 8, 0.5), (3, 99, 0.5)]])
    logits, target = case.logits(3, torch.bfloat16), torch.zeros(3, dtype=torch.long)
    first = cases.call(case, logits, target, backend)
    for found, wanted in zip(cases.call(case, logits, target, backend), first, strict=True):
        assert torch.equal(found, wanted)


# --- ops over a whole tree ------------------------------------------------------------------------


@contextmanager
def rows_split() -> Iterator[None]:
    """Splits rows of more than 20 places into a program per 7 places, in chunks of 1 or 2 rows."""
    from hace_kernels.triton import rows, tree_rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_rows, "_PLACES_PER_PROGRAM", 20)
        patch.setattr(tree_rows, "_PLACES_PER_PART", 7)
        patch.setattr(rows, "_L2_BYTES", 2000)
        yield


#: Under a root with 60 children, one node has 90 leaves and many have one or two. So a few places
#: are far wider than the others, both by columns and by inner children.
UNEVEN = np.concatenate(
    [[-1], np.zeros(60), np.full(90, 1), np.arange(2, 61), np.arange(2, 30)]
).astype(np.int64)


@pytest.mark.parametrize(
    "shape", ["uneven", *thoroughly("nodes without classes", "shuffled inner classes")]
)
@pytest.mark.parametrize("dtype", [torch.float32, *thoroughly(torch.bfloat16)], ids=str)
class TestSplitRows:
    """Several programs per row, and several launches, give the same as one, up to rounding."""

    @pytest.fixture
    def case(self, rng: np.random.Generator, shape: str) -> TreeCase:
        if shape != "uneven":
            return TreeCase(tree_cases.SHAPES[shape](rng))
        return TreeCase(trees.Tree(UNEVEN, np.setdiff1d(np.arange(len(UNEVEN)), UNEVEN)))

    def test_tree_sum(self, backend: Backend, case: TreeCase, dtype: torch.dtype) -> None:
        for op in test_tree_sum.OPS:
            values = test_tree_sum.values_for(case, op, 3, dtype)
            test_tree_sum.check(case, op, values, backend)
            with rows_split():
                test_tree_sum.check(case, op, values, backend)

    def test_tree_log_prob(self, backend: Backend, case: TreeCase, dtype: torch.dtype) -> None:
        logits = case.logits(3, dtype)
        logits[1, ::2] -= 300
        test_tree_log_prob.check(case, logits, backend)
        with rows_split():
            test_tree_log_prob.check(case, logits, backend)

    @pytest.mark.parametrize("eps", [0.0, *thoroughly(1e-3)])
    @pytest.mark.parametrize(
        "kind", ["soft pairs", *thoroughly("smoothed", "probabilities over others")]
    )
    def test_tree_log_loss(
        self, backend: Backend, case: TreeCase, kind: str, dtype: torch.dtype, eps: float
    ) -> None:
        target, options = test_tree_log_loss.targets_of(case, kind, 3)
        if kind == "smoothed":
            target[1] = -100
        logits = case.logits(3, dtype)
        with rows_split():
            test_tree_log_loss.check(case, logits, target, backend, eps=eps, **options)


@pytest.mark.parametrize("reduction", ["mean", *thoroughly("none")])
@pytest.mark.parametrize("form", ["index", "pairs", *thoroughly("soft", "probabilities")])
def test_a_wrong_target_of_a_tree_gives_nan(backend: Backend, form: str, reduction: str) -> None:
    """The target is out of range, or has no class at or below it."""
    rng = np.random.default_rng(0)
    case = TreeCase(tree_cases.SHAPES["nodes without classes"](rng))
    empty = int(np.flatnonzero(~case.reach.any(axis=1))[0])
    options = {"soft_label_beta": 3.0} if form == "soft" else {}
    table = case.target_table(target_space="nodes", **options)
    for bad in (empty, -(2**63)):
        index = case.targets(3, "nodes")
        index[1] = bad
        target: Any = index
        if form == "pairs":
            target = (torch.stack([case.targets(3, "nodes"), index], 1), torch.ones(3, 2))
        elif form == "probabilities":
            if bad != empty:
                continue
            target = case.probabilities(3, "nodes")
            target[1, empty] = 1e-9
        logits = case.logits(3, torch.float32)
        loss, grad = tree_cases.call(case, logits, target, table, backend, reduction=reduction)
        assert loss[1].isnan() if reduction == "none" else loss.isnan()
        assert grad[1].isnan().all()
        assert grad[[0, 2]].isfinite().all()


@pytest.mark.parametrize("eps", [0.0, *thoroughly(1e-3)])
def test_same_bits_for_a_row_alone(backend: Backend, eps: float) -> None:
    """Neither other rows (NaN, partly -inf, far apart, ignored) nor another run change a bit."""
    case = some_case(np.random.default_rng(0), 20)
    logits, target = case.logits(6, torch.float32), case.targets(6)
    logits[0], target[4] = torch.nan, -100
    logits[2, ::2] -= 300
    logits[3, 1::3] = -torch.inf
    table = case.target_table(label_smoothing=0.1)

    def run(rows: slice) -> tuple[torch.Tensor, ...]:
        loss, grad = tree_cases.call(
            case, logits[rows], target[rows], table, backend, reduction="none", eps=eps
        )
        log_p = hace_kernels.tree_log_prob(logits[rows], case.table, backend=backend.name)
        return loss, grad, log_p

    together = run(slice(None))
    for rows in (slice(None), slice(1, 2), slice(2, 5)):
        for found, wanted in zip(run(rows), together, strict=True):
            torch.testing.assert_close(found, wanted[rows], rtol=0, atol=0, equal_nan=True)


@pytest.mark.thorough
def test_opcheck_of_tree_ops(backend: Backend) -> None:
    case = some_case(np.random.default_rng(0), 8)
    tree = case.table
    arrays, ops = [*tree.tensors], torch.ops.hace_kernels
    columns = case.logits(2, torch.float32).requires_grad_()
    nodes = torch.randn(2, case.num_nodes, requires_grad=True)
    for op, rows in (("sum_up", columns), ("sum_down", nodes), ("log_prob", columns)):
        native = getattr(ops, f"triton_tree_{op}").default
        torch.library.opcheck(native, (rows, arrays, tree.level_ptr))
    for kind in ("smoothed", "soft pairs", "probabilities over others"):
        target, options = test_tree_log_loss.targets_of(case, kind, 2)
        table = case.target_table(**options)
        index, index_weight, mass = None, None, None
        if isinstance(target, tuple):
            index, index_weight = target
        elif target.is_floating_point():
            mass = target.float()
        else:
            index = target[:, None]
        arguments = (
            columns, mass, index, index_weight, arrays, tree.level_ptr,
            table.tensors,
            table.row_spread, -100, 1,
            0.0, True,
        )  # fmt: skip
        torch.library.opcheck(ops.triton_tree_log_loss.default, arguments)


@pytest.mark.parametrize("eps", [0.0, *thoroughly(1e-6)])
@pytest.mark.parametrize("dtype", [torch.float32, *thoroughly(torch.float64, torch.float16)])
@pytest.mark.parametrize("kind", ["others", *thoroughly(None, "weights")])
@pytest.mark.parametrize("shape", ["shared leaf", *thoroughly("empty nodes", "shortcut")])
def test_loss_over_a_dag(
    backend: Backend,
    rng: np.random.Generator,
    shape: str,
    kind: str | None,
    dtype: torch.dtype,
    eps: float,
) -> None:
    """Indices (one ignored), pairs and probabilities work, with logits far apart or -inf."""
    dag = dags.SHAPES[shape]
    options = test_dag_log_loss.smoothing(dag, rng, kind) if kind else {}
    case = test_dag_log_loss.Case(dag, rng, 0.6, **options)
    logits, target = case.logits(3, dtype), case.indices(3)
    target[1] = -100
    logits[2] *= 50 if eps == 0 else 1
    logits[0, 0] = -torch.inf
    case.check(logits, target, backend, eps)
    case.check(logits, (case.indices(3, 2), torch.rand(3, 2).double()), backend, eps)
    case.check(logits, case.probabilities(3), backend, eps)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", ["random", "two roots", "nodes", "diamonds"])
def test_loss_over_larger_dags(backend: Backend, rng: np.random.Generator, shape: str) -> None:
    case = test_dag_log_loss.Case(dags.SHAPES[shape], rng)
    case.check(case.logits(2, torch.float32), case.indices(2), backend)
    with rows_split():
        case.check(case.logits(2, torch.float32), case.probabilities(2), backend, 1e-6)


@pytest.mark.thorough
def test_loss_over_a_wide_dag(backend: Backend, rng: np.random.Generator) -> None:
    """A node has more children, parts and holders than fit into a tile."""
    test_dag_log_loss.test_widths(backend, rng, 700)


def test_bad_targets_of_a_dag(backend: Backend, rng: np.random.Generator) -> None:
    test_dag_log_loss.test_bad_targets(backend, rng)
    case = test_dag_log_loss.Case(dags.SHAPES["empty nodes"], rng)
    mass = torch.zeros(2, case.dag.num_nodes)
    mass[1, case.targets.place < 0] = 0.5
    test_dag_log_loss.assert_refused(case, mass, "no class", backend)
