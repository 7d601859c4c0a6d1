"""`tree_sum_up` and `tree_sum_down` agree with the oracle, each other, and PyTorch's machinery."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trees
from backend import Backend, many_rows
from cases import DTYPES
from hypothesis import given
from oracle import ROUNDOFF, Sweep, assert_sums_close, to_real
from rows import on_some_rows
from test_hace_loss_properties import SEEDS, hierarchies, property_test
from test_path_log_loss import LAYOUTS
from torch._dynamo.testing import CompileCounterWithBackend
from tree_cases import (
    FEW,
    ROWS,
    SHAPES,
    TreeCase,
    assert_rows_stand_alone,
    deep_case,
    far_apart,
    large_case,
    roundings_of_sums,
    some_case,
    wide_case,
)

from hace_kernels import native, tree_sum_down, tree_sum_up

pytestmark = pytest.mark.parity

OPS = {"up": tree_sum_up, "down": tree_sum_down}

needs_native = pytest.mark.skipif(
    native.load_error is not None,
    reason="the ops torch.ops.hace_kernels.tree_sum_* come with the native library",
)


def values_for(case: TreeCase, op: str, rows: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, case.num_classes if op == "up" else case.num_nodes).to(dtype)


def run(
    case: TreeCase, op: str, values: torch.Tensor, backend: Backend, incoming: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums, and the gradient of `(incoming * sums).sum()`."""
    x = values.detach().to(backend.device).requires_grad_()
    sums = OPS[op](x, case.table.to(backend.device), backend=backend.name)
    if incoming is None:
        incoming = torch.ones(())
    (grad,) = torch.autograd.grad(sums, x, incoming.to(sums).expand(sums.shape))
    return sums.detach(), grad


def exact(sweep: Sweep, op: str, values: np.ndarray) -> np.ndarray:
    if op == "up":
        return sweep.up(sweep.on_nodes(values))
    return sweep.down(values)[:, sweep.tree.classes]


def assert_right(
    sweep: Sweep, op: str, found: torch.Tensor, values: torch.Tensor, roundings: float
) -> None:
    x = to_real(values)
    sums, sizes = exact(sweep, op, x), exact(sweep, op, np.abs(x))
    assert found.dtype == values.dtype
    assert_sums_close(found, sums, sizes, roundings=roundings)


@on_some_rows
def check(
    case: TreeCase, op: str, values: torch.Tensor, backend: Backend, roundings: float = 16
) -> None:
    """Compares sums and gradient with the oracle, and checks that inputs are unchanged."""
    before = values.clone()
    other = "down" if op == "up" else "up"
    incoming = values_for(case, other, len(values), values.dtype)
    sums, grad = run(case, op, values, backend, incoming)
    torch.testing.assert_close(values, before, rtol=0, atol=0, equal_nan=True)
    # Each level adds one rounding.
    sweep, roundings = case.sweep, roundings + len(case.table.level_ptr)
    assert_right(sweep, op, sums, values, roundings)
    assert_right(sweep, other, grad, incoming, roundings)


@pytest.mark.sample(
    dtype=[torch.float32], shape=["inner classes", "shuffled inner classes", "caterpillar", "stubs"]
)
@pytest.mark.sample(dtype=[torch.bfloat16], shape=["nodes", "nodes without classes"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_trees(
    backend: Backend, rng: np.random.Generator, shape: str, op: str, dtype: torch.dtype
) -> None:
    case = TreeCase(SHAPES[shape](rng))
    check(case, op, values_for(case, op, 9, dtype), backend)


@pytest.mark.sample(shape=["shuffled inner classes", "stubs"])
@pytest.mark.parametrize("shape", SHAPES)
def test_are_products_with_the_reachability_matrix(
    backend: Backend, rng: np.random.Generator, shape: str
) -> None:
    case = TreeCase(SHAPES[shape](rng))
    reach = torch.from_numpy(case.reach.astype(float))
    for op, matrix in (("up", reach.T), ("down", reach)):
        values = values_for(case, op, 5, torch.float64)
        torch.testing.assert_close(run(case, op, values, backend)[0].cpu(), values @ matrix)


@pytest.mark.sample(dtype=[torch.float32], rows=[17, 0])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_numbers_of_rows(
    backend: Backend, rng: np.random.Generator, op: str, rows: int, dtype: torch.dtype
) -> None:
    case = some_case(rng, shuffle=True)
    check(case, op, values_for(case, op, rows, dtype), backend)


@property_test
@given(hierarchies(), SEEDS)
def test_random_trees(tree: trees.Tree, seed: int) -> None:
    """Random trees are right on the backend that `auto` chooses."""
    case = TreeCase(tree)
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(5, case.num_nodes, dtype=torch.float64, generator=generator)
    up = torch.randn(5, case.num_classes, dtype=torch.float64, generator=generator)
    sums_up, sums_down = tree_sum_up(up, case.table), tree_sum_down(down, case.table)
    assert_right(Sweep(tree), "up", sums_up, up, 40)
    assert_right(Sweep(tree), "down", sums_down, down, 40)
    adjoint = (sums_up * down).sum() - (up * sums_down).sum()
    assert abs(adjoint) <= 1e-14 * (tree_sum_up(up.abs(), case.table) * down.abs()).sum()


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.sample(dtype=[torch.bfloat16], op=["up"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_half_precision_is_summed_in_single(backend: Backend, op: str, dtype: torch.dtype) -> None:
    """4,000 ones sum to 4,000, although float16 alone would stop at 2,048 and bfloat16 at 256."""
    case = TreeCase(trees.flat(4000) if op == "up" else trees.chain(4000))
    values = torch.ones(2, case.num_classes if op == "up" else case.num_nodes, dtype=dtype)
    sums, _ = run(case, op, values, backend)
    assert (sums[:, 0].double() == torch.tensor(4000).to(dtype).double()).all()


@pytest.mark.parametrize("op", OPS)
def test_too_large_for_float16(backend: Backend, op: str) -> None:
    """A sum is infinite if it is too large as a whole, as PyTorch rounds, not if a part is."""
    case = TreeCase(trees.flat(4) if op == "up" else trees.chain(4))
    big = torch.tensor([[6e4, 6e4, -6e4, -6e4], [6e4, 6e4, 0, 0]], dtype=torch.float16)
    sums, _ = run(case, op, big, backend)
    assert sums[:, 0].tolist() == [0, torch.inf]


@pytest.mark.sample(dtype=[torch.float16], shape=["nodes without classes"], bad=[torch.nan])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", FEW)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan], ids=str)
def test_infinity_and_nan_go_where_they_belong(
    backend: Backend,
    rng: np.random.Generator,
    shape: str,
    op: str,
    bad: float,
    dtype: torch.dtype,
) -> None:
    """They affect only the sums that contain them, not siblings or other rows."""
    case = TreeCase(SHAPES[shape](rng))
    values = values_for(case, op, 33, dtype)
    columns = torch.from_numpy(rng.integers(0, values.shape[1], 17))
    values[torch.arange(0, 33, 2), columns] = bad
    check(case, op, values, backend)


def test_nodes_without_a_class_are_out_of_it(backend: Backend, rng: np.random.Generator) -> None:
    """They sum to 0, and their values or incoming gradients do not affect other nodes."""
    case = TreeCase(SHAPES["nodes without classes"](rng))
    empty = torch.from_numpy(~case.reach.any(axis=1))
    assert empty.any()
    up = values_for(case, "up", 5, torch.float32)
    for bad in (torch.nan, torch.inf):
        incoming = torch.ones(5, case.num_nodes).masked_fill(empty, bad)
        sums, grad = run(case, "up", up, backend, incoming)
        assert (sums[:, empty] == 0).all()
        assert grad.isfinite().all()
        sums, grad = run(case, "down", incoming, backend)
        assert sums.isfinite().all()
        assert (grad[:, empty] == 0).all()


@pytest.mark.sample(dtype=[torch.float32], op=["up"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_wide_node(backend: Backend, op: str, dtype: torch.dtype) -> None:
    """With 100,000 numbers of one sign, the errors of adding one by one would be too large."""
    case = wide_case()
    values = values_for(case, op, 2, dtype).abs() / 4  # small enough for a float16 sum
    other = values_for(case, "down" if op == "up" else "up", 2, dtype).abs() / 4
    sums, grad = run(case, op, values, backend, other)
    roundings = roundings_of_sums(dtype, case.num_classes, backend)
    assert_right(case.sweep, op, sums, values, roundings)
    assert_right(case.sweep, "down" if op == "up" else "up", grad, other, roundings)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(kind=["caterpillar"])
@pytest.mark.parametrize("kind", ["chain", "chain of classes", "caterpillar"])
def test_deep_tree(backend: Backend, kind: str) -> None:
    """Each op's gradient is the other one's sums."""
    case = deep_case(kind, backend)
    given = {op: values_for(case, op, 2, torch.float32) for op in OPS}
    for op, other in (("up", "down"), ("down", "up")):
        x = to_real(given[op])
        sums, sizes = exact(case.sweep, op, x), exact(case.sweep, op, np.abs(x))
        for dtype in (torch.float64, torch.float32):
            one, two = given[op].to(dtype), given[other].to(dtype)
            found, _ = run(case, op, one, backend, two)
            _, grad = run(case, other, two, backend, one)
            roundings = 16 + len(case.table.level_ptr)
            assert_sums_close(found, sums, sizes, roundings=roundings)
            assert_sums_close(grad, sums, sizes, roundings=roundings)


@pytest.mark.thorough_on("reference", "triton")
def test_large_tree(backend: Backend) -> None:
    case, dtype = large_case(), torch.float32
    assert case.num_nodes > 90_000
    for op in OPS:
        check(case, op, values_for(case, op, 3, dtype), backend)


# --- rows and memory layouts ----------------------------------------------------------------------


@pytest.mark.sample(dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_layouts(
    backend: Backend, rng: np.random.Generator, op: str, layout: str, dtype: torch.dtype
) -> None:
    for leaves in (1, 7, 50):
        case = TreeCase(trees.random_tree(rng, leaves, roots=min(2, leaves), shuffle=True))
        values = LAYOUTS[layout](values_for(case, op, 6, dtype).to(backend.device))
        check(case, op, values, backend)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_layouts_of_the_incoming_gradient(
    backend: Backend, rng: np.random.Generator, op: str, layout: str
) -> None:
    case, other = some_case(rng), "down" if op == "up" else "up"
    incoming = LAYOUTS[layout](values_for(case, other, 6, torch.float32))
    values = values_for(case, op, len(incoming), torch.float32)
    _, grad = run(case, op, values, backend, incoming)
    assert_right(case.sweep, other, grad, incoming, 40)


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_rows_side_by_side(
    backend: Backend, rng: np.random.Generator, op: str, dtype: torch.dtype
) -> None:
    """The sums of strided rows have the same strides, so that nothing has to be transposed."""
    for tree in (trees.flat(100), trees.random_tree(rng, 40, roots=2, inner=0.3, shuffle=True)):
        case = TreeCase(tree)
        values = values_for(case, op, 150, dtype).T.contiguous().to(backend.device).T
        check(case, op, values, backend)
        if backend.name == "cpu":
            sums, _ = run(case, op, values, backend)
            _, grad = run(case, op, values, backend, sums)
            assert sums.T.is_contiguous()
            assert grad.T.is_contiguous()


@pytest.mark.parametrize("op", OPS)
def test_rows_far_apart(
    backend: Backend, rng: np.random.Generator, tmp_path: Path, op: str
) -> None:
    case = some_case(rng)
    check(case, op, far_apart(values_for(case, op, 2, torch.bfloat16), tmp_path), backend)


@many_rows
@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", FEW)
@pytest.mark.parametrize("op", OPS)
def test_rows_stand_alone(
    backend: Backend,
    rng: np.random.Generator,
    threads: Callable[[int], None],
    shape: str,
    op: str,
    dtype: torch.dtype,
) -> None:
    case = TreeCase(SHAPES[shape](rng))
    values = values_for(case, op, 33, dtype)
    values[::5] = torch.nan
    values[1::5] *= 1e4
    assert_rows_stand_alone(lambda rows: run(case, op, values[rows], backend)[0], threads, backend)


@pytest.mark.not_on("triton-interpreted", reason="the interpreter has one thread")
@pytest.mark.sample(rows=[1])
@pytest.mark.parametrize("rows", [1, 2000])
@pytest.mark.parametrize("op", OPS)
def test_threads(
    backend: Backend,
    rng: np.random.Generator,
    threads: Callable[[int], None],
    op: str,
    rows: int,
) -> None:
    """Bits are the same from run to run and, from the kernels, for any number of threads."""
    case = large_case() if rows == 1 and backend.name != "reference" else some_case(rng)
    values = values_for(case, op, rows, torch.float32)
    first = None
    for count in (1, 2):
        threads(count)
        found = [torch.cat(run(case, op, values, backend), 1) for _ in range(2)]
        first = first if first is not None and backend.name == "cpu" else found[0]
        for result in found:
            assert torch.equal(result, first)


# --- autograd and the compiler --------------------------------------------------------------------


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(shape=["shuffled inner classes"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", FEW)
def test_gradcheck(backend: Backend, rng: np.random.Generator, shape: str, op: str) -> None:
    tree = SHAPES[shape](rng)
    case = TreeCase(trees.caterpillar(6) if shape == "caterpillar" else tree)
    values = values_for(case, op, 2, torch.float64).to(backend.device).requires_grad_()
    table = case.table.to(backend.device)

    def sums(x: torch.Tensor) -> torch.Tensor:
        return OPS[op](x, table, backend=backend.name)

    assert torch.autograd.gradcheck(sums, (values,))
    assert torch.autograd.gradgradcheck(sums, (values,))


@pytest.mark.parametrize("op", OPS)
def test_second_backward(backend: Backend, rng: np.random.Generator, op: str) -> None:
    """The returned gradient belongs to the caller: changing it does not affect the next one."""
    case, other = some_case(rng), "down" if op == "up" else "up"
    values = values_for(case, op, 4, torch.float32).to(backend.device).requires_grad_()
    sums = OPS[op](values, case.table.to(backend.device), backend=backend.name)
    before = sums.detach().clone()
    for factor in (3.0, 1.0, -0.25):
        incoming = factor * values_for(case, other, 4, torch.float32).to(backend.device)
        (grad,) = torch.autograd.grad(sums, values, incoming, retain_graph=True)
        assert_right(case.sweep, other, grad, incoming, 40)
        grad.fill_(7)
    assert torch.equal(sums, before)
    for _ in range(2):
        sums.backward(incoming, retain_graph=True)
    assert_right(case.sweep, other, values.grad, 2 * incoming, 40)


def test_no_graph_without_a_gradient(backend: Backend, rng: np.random.Generator) -> None:
    case = some_case(rng)
    for op in OPS:
        values = values_for(case, op, 4, torch.float32).to(backend.device)
        table = case.table.to(backend.device)
        assert not OPS[op](values, table, backend=backend.name).requires_grad
        values.requires_grad_()
        assert OPS[op](values, table, backend=backend.name).requires_grad
        with torch.no_grad():
            assert not OPS[op](values, table, backend=backend.name).requires_grad
        with torch.inference_mode():
            assert not OPS[op](values, table, backend=backend.name).requires_grad


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", ["one class", "shuffled inner classes"])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_opcheck(
    rng: np.random.Generator, layout: str, shape: str, op: str, dtype: torch.dtype
) -> None:
    case = TreeCase(SHAPES[shape](rng))
    native = getattr(torch.ops.hace_kernels, f"tree_sum_{op}").default
    values = values_for(case, op, 5, dtype)
    values = (LAYOUTS[layout](values) if layout in LAYOUTS else values).requires_grad_()
    torch.library.opcheck(native, (values, [*case.table[:-1]], case.table.level_ptr))


@pytest.mark.thorough_on("reference", "triton")
@pytest.mark.sample(op=["up"])
@pytest.mark.parametrize("op", OPS)
def test_compiled(backend: Backend, rng: np.random.Generator, op: str) -> None:
    """It is compiled once for all batch sizes, forward and backward in one graph."""
    torch._dynamo.reset()
    case, other = some_case(rng), "down" if op == "up" else "up"
    table = case.table.to(backend.device)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x: OPS[op](x, table, backend=backend.name), fullgraph=True, backend=counter
    )
    for rows in (4, 5, 17, 2, 33):
        values = values_for(case, op, rows, torch.float32).to(backend.device).requires_grad_()
        torch._dynamo.mark_dynamic(values, 0)
        sums = compiled(values)
        incoming = values_for(case, other, rows, torch.float32).to(backend.device)
        (grad,) = torch.autograd.grad(sums, values, incoming)
        assert_right(case.sweep, op, sums.detach(), values.detach(), 40)
        assert_right(case.sweep, other, grad, incoming, 40)
    assert counter.frame_count == 1


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("change", [-1, 1, "vector", "matrices", "integers", "complex", "fortran"])
def test_wrong_arguments(
    backend: Backend, rng: np.random.Generator, op: str, change: int | str
) -> None:
    case = TreeCase(trees.random_tree(rng, 20, roots=3))
    values, name = values_for(case, op, 4, torch.float32), backend.name
    if isinstance(change, int):
        values = torch.randn(4, values.shape[1] + change)
    elif change == "fortran":
        name = change
    else:
        kinds = {
            "vector": values[0],
            "matrices": values[None],
            "integers": values.long(),
            "complex": values.to(torch.complex64),
        }
        values = kinds[change]
    error = TypeError if change in ("integers", "complex") else ValueError
    with pytest.raises(error) as caught:
        OPS[op](values, case.table, backend=name)
    if isinstance(change, int):
        assert str(values.shape[1]) in str(caught.value)
        assert str(values.shape[1] - change) in str(caught.value)


@needs_native
@pytest.mark.parametrize(
    ("array", "at", "value"),
    [
        ("place", 3, 10**6),
        ("parent", 3, 10**6),
        ("parent", 3, 3),
        ("parent", -2, 0),
        ("child_ptr", 1, 10**6),
        ("child_ptr", 0, -1),
        ("child_ptr", -1, 10**6),
        ("child", 0, 10**6),
        ("child", 0, -1),
    ],
)
@pytest.mark.parametrize("op", OPS)
def test_tables_that_are_none(op: str, array: str, at: int, value: int) -> None:
    """The kernels follow the table's links, so they check them first."""
    case = TreeCase(trees.balanced([3, 4]))
    native = getattr(torch.ops.hace_kernels, f"tree_sum_{op}").default
    values = values_for(case, op, 2, torch.float32)
    given = getattr(case.table, array)
    broken = given.clone()
    broken[at] = value
    shorter = [] if array == "place" else [given[:-1]]  # which has a node less
    for wrong in (broken, given.long(), given[None], *shorter):
        table = case.table._replace(**{array: wrong})
        with pytest.raises(RuntimeError, match=r"tree"):
            native(values, [*table[:-1]], table.level_ptr)


def test_tests_would_see_an_error_of_a_few_roundings(rng: np.random.Generator) -> None:
    case = some_case(rng)
    values = values_for(case, "up", 3, torch.float32)
    right = exact(case.sweep, "up", to_real(values))
    wrong = torch.from_numpy(right.astype(np.float32))
    wrong[1, 7] += 64 * ROUNDOFF[torch.float32] * values[1].abs().sum()
    with pytest.raises(AssertionError, match=r"wrong; at \[1, 7\]"):
        assert_right(case.sweep, "up", wrong, values, 16)
