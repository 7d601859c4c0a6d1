"""Values, gradients and numerics of `tree_log_prob` and `hace.functional.node_log_probs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import trees
from backend import Backend, many_rows
from cases import DTYPES
from hypothesis import given
from oracle import assert_grad_close, assert_log_probs_close, to_real
from rows import on_some_rows
from test_hace_loss_properties import SEEDS, hierarchies, property_test
from test_path_log_loss import LAYOUTS
from test_path_log_loss_numerics import GAPS, MASKS
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

from hace.functional import node_log_probs
from hace_kernels import native, tree_log_prob

pytestmark = pytest.mark.parity

needs_native = pytest.mark.skipif(
    native.load_error is not None,
    reason="the op torch.ops.hace_kernels.tree_log_prob comes with the native library",
)


def bound(case: TreeCase, backend: Backend) -> Callable[[torch.Tensor], torch.Tensor]:
    """The op as a function of only the logits."""
    table = case.table.to(backend.device)
    return lambda x: tree_log_prob(x, table, backend=backend.name)


def run(
    case: TreeCase, logits: torch.Tensor, incoming: torch.Tensor, backend: Backend
) -> tuple[torch.Tensor, torch.Tensor]:
    """log P, and autograd's gradient of `(incoming * log P).sum()`."""
    x = logits.detach().to(backend.device).requires_grad_()
    log_p = bound(case, backend)(x)
    (grad,) = torch.autograd.grad(log_p, x, incoming.to(log_p))
    return log_p.detach(), grad


@on_some_rows
def check(
    case: TreeCase,
    logits: torch.Tensor,
    backend: Backend,
    *,
    roundings: float = 16,
    incoming: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compares values and gradient with the oracle, and checks that inputs are unchanged."""
    before = logits.clone()
    if incoming is None:
        incoming = torch.randn(len(logits), case.num_nodes)
    log_p, grad = run(case, logits, incoming, backend)
    torch.testing.assert_close(logits, before, rtol=0, atol=0, equal_nan=True)
    assert grad.dtype == logits.dtype
    # Each level adds one rounding.
    roundings += len(case.table.level_ptr)
    exact = oracle.node_log_probs(logits, case.reach)
    assert_log_probs_close(log_p, exact, logits.dtype, roundings=roundings)
    answer = oracle.node_log_probs_grad(logits, case.reach, incoming)
    assert_grad_close(grad, answer, roundings=roundings)
    return log_p, grad


def check_large(
    case: TreeCase,
    logits: torch.Tensor,
    backend: Backend,
    roundings: float,
    dtypes: Sequence[torch.dtype] = (),
) -> None:
    """The same with the oracle's sweeps, for the logits in each of the dtypes."""
    incoming = torch.rand(len(logits), case.num_nodes)
    exact = case.sweep.log_probs(logits)
    answer = case.sweep.log_loss(logits, -to_real(incoming))
    for dtype in dtypes or (logits.dtype,):
        log_p, grad = run(case, logits.to(dtype), incoming, backend)
        assert_log_probs_close(log_p, exact, dtype, roundings=roundings)
        assert_grad_close(grad, answer, roundings=roundings)


@pytest.mark.sample(
    dtype=[torch.float32, torch.bfloat16],
    shape=["inner classes", "shuffled inner classes", "nodes", "nodes without classes", "stubs"],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_trees(backend: Backend, rng: np.random.Generator, shape: str, dtype: torch.dtype) -> None:
    case = TreeCase(SHAPES[shape](rng))
    check(case, case.logits(9, dtype), backend)


@pytest.mark.sample(dtype=[torch.float32], rows=[17, 0])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_rows(
    backend: Backend, rng: np.random.Generator, rows: int, dtype: torch.dtype
) -> None:
    case = some_case(rng, shuffle=True)
    check(case, case.logits(rows, dtype), backend)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_flat_classes_are_log_softmax(backend: Backend, dtype: torch.dtype) -> None:
    case = TreeCase(trees.flat(30, rooted=False))
    logits = case.logits(5, dtype, scale=10.0)
    incoming = torch.randn(5, 30, dtype=dtype)
    log_p, grad = run(case, logits, incoming, backend)
    plain = logits.clone().requires_grad_()
    expected = plain.log_softmax(1)
    (expected_grad,) = torch.autograd.grad(expected, plain, incoming)
    torch.testing.assert_close(log_p.cpu(), expected)
    torch.testing.assert_close(grad.cpu(), expected_grad)


@property_test
@given(hierarchies(), SEEDS)
def test_random_trees(tree: trees.Tree, seed: int) -> None:
    """Random trees are right on the backend that `auto` chooses."""
    case = TreeCase(tree)
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(5, case.num_classes, dtype=torch.float64, generator=generator)
    log_p = tree_log_prob(logits.requires_grad_(), case.table)
    exact = oracle.node_log_probs(logits, case.reach)
    assert_log_probs_close(log_p.detach(), exact, torch.float64, roundings=40)
    incoming = torch.rand(log_p.shape, dtype=torch.float64, generator=generator)
    (grad,) = torch.autograd.grad(log_p, logits, incoming)
    answer = oracle.node_log_probs_grad(logits, case.reach, incoming)
    assert_grad_close(grad, answer, roundings=40)
    assert (log_p <= 0).all()
    for node, parent in enumerate(tree.parents):
        if parent >= 0:  # to a rounding, since an ancestor's equal columns may be summed separately
            assert (log_p[:, node] <= log_p[:, parent] + 1e-14).all()


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.sample(dtype=[torch.float32], shape=["shuffled inner classes"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", FEW)
def test_gaps(backend: Backend, rng: np.random.Generator, shape: str, dtype: torch.dtype) -> None:
    """Each subtree in turn is far below the rest, then far below the subtree around it."""
    tree = trees.caterpillar(12) if shape == "caterpillar" else SHAPES[shape](rng)
    case = TreeCase(tree)
    nodes = np.flatnonzero(case.reach.any(axis=1) & ~case.reach.all(axis=1))
    depths = torch.from_numpy(case.reach.sum(axis=0).astype(float))
    offsets = []
    for gap in GAPS:
        node = torch.from_numpy(case.reach[rng.choice(nodes, 4)].astype(float))
        offsets += [-gap * node, -gap * depths[None], gap * depths[None]]
    rows = torch.cat(offsets)
    check(case, (case.logits(len(rows), torch.float64) + rows).to(dtype), backend)


def test_masses_below_the_smallest_float(backend: Backend) -> None:
    """log P and its gradient are right for subtrees of 1e-50 (float32) or 1e-400 (float64)."""
    case = TreeCase(trees.balanced([2, 3, 2]))
    for dtype, gap in ((torch.float32, 115.0), (torch.float64, 921.0)):
        logits = torch.zeros(1, 12, dtype=dtype)
        logits[:, :6] -= gap
        logits[:, :2] -= gap
        node = int(case.tree.parents[case.tree.classes[0]])
        incoming = torch.zeros(1, case.num_nodes)
        incoming[0, [node, case.tree.classes[0]]] = 1
        log_p, grad = check(case, logits, backend, incoming=incoming)
        exact = -2 * gap - np.log(6.0)
        assert log_p[0, case.tree.classes[0]].item() == pytest.approx(exact, rel=1e-6)
        assert grad[0, :2].tolist() == pytest.approx([1.5, 0.5])


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_huge_logits(backend: Backend, rng: np.random.Generator, dtype: torch.dtype) -> None:
    """Rows mix logits of +-1e4, where neighbouring fp32 numbers are 1e-3 apart."""
    case = TreeCase(trees.random_tree(rng, 40, roots=3, inner=0.3, shuffle=True))
    width = case.num_classes
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=(width, width)))
    noise = torch.randn(width, width, dtype=torch.float64)
    alone = 2 * torch.eye(width).double() - 1
    rows = [1e4 * signs, 1e4 + noise, -1e4 + noise, 1e4 * alone, -1e4 * alone]
    rows += [torch.full((1, width), 1e4).double(), 1e4 * noise.clamp(-1, 1)]
    check(case, torch.cat(rows).to(dtype), backend)


@pytest.mark.sample(dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lowest_number_is_no_mask(backend: Backend, dtype: torch.dtype) -> None:
    """Many models leave classes out by masked_fill(mask, finfo.min), where log P is finite."""
    case = TreeCase(trees.balanced([3, 2, 3]))
    logits = case.logits(4, dtype)
    for row, columns in enumerate([slice(9, 18), slice(0, 6), slice(7, 8), slice(0, 18)]):
        logits[row, columns] = torch.finfo(dtype).min
    log_p, _ = check(case, logits, backend)
    if dtype != torch.float64:
        assert log_p.isfinite().all()


@pytest.mark.sample(dtype=[torch.bfloat16], order=["shuffled"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_minus_infinity(
    backend: Backend, rng: np.random.Generator, order: str, dtype: torch.dtype
) -> None:
    """log P is -inf at nodes of only -inf, which pass no gradient on; other rows are right."""
    tree = trees.balanced([3, 2, 3])
    columns = np.arange(18) if order == "ordered" else rng.permutation(18)
    case = TreeCase(trees.Tree(tree.parents, tree.classes[np.argsort(columns)]))
    logits = case.logits(2 * len(MASKS) + 1, dtype)
    for row, mask in enumerate(MASKS.values()):
        logits[2 * row + 1, torch.from_numpy(columns[mask])] = -torch.inf
    log_p, grad = check(case, logits, backend, all_rows=True)
    assert (log_p == -torch.inf).any(1).sum() == len(MASKS) - 1
    assert (grad[logits == -torch.inf].nan_to_num(0) == 0).all()


def test_minus_infinity_and_a_gap(backend: Backend) -> None:
    """A subtree is 500 below the rest, and some or all of it is -inf."""
    case = TreeCase(trees.balanced([2, 2, 3]))
    logits = case.logits(5, torch.float32)
    logits[:, :6] -= 500
    logits[1, 3:6] = -torch.inf
    logits[2, 0] = -torch.inf
    logits[3, :6] = -torch.inf
    logits[4, 6:] = -torch.inf
    check(case, logits, backend)


@pytest.mark.sample(coming=[torch.nan])
@pytest.mark.parametrize("coming", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_what_comes_in_at_a_dead_node_is_dropped(
    backend: Backend, rng: np.random.Generator, coming: float
) -> None:
    """(P log P).sum() sends NaN there, and a where() that chooses other nodes sends 0 * inf."""
    case = TreeCase(SHAPES["nodes without classes"](rng))
    logits = case.logits(17, torch.float32)
    logits[::2, :4] = -torch.inf
    incoming = torch.randn(17, case.num_nodes)
    dead = torch.from_numpy(oracle.node_log_probs(logits, case.reach) == -np.inf)
    assert dead.any()
    log_p, grad = run(case, logits, incoming.masked_fill(dead, coming), backend)
    assert grad.isfinite().all()
    assert (log_p.cpu() == -torch.inf).equal(dead)
    assert_grad_close(grad, oracle.node_log_probs_grad(logits, case.reach, incoming), roundings=40)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(dtype=[torch.float32], bad=[torch.nan])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.inf, torch.nan], ids=str)
def test_infinity_and_nan(
    backend: Backend, rng: np.random.Generator, bad: float, dtype: torch.dtype
) -> None:
    """log P at nodes with a class, and the gradient, are NaN in this row and in no other."""
    case = TreeCase(SHAPES["nodes without classes"](rng))
    width = case.num_classes
    logits = case.logits(2 * width, dtype)
    logits[torch.arange(1, 2 * width, 2), torch.arange(width)] = bad
    log_p, grad = run(case, logits, torch.ones(2 * width, case.num_nodes), backend)
    full = torch.from_numpy(case.reach.any(axis=1))
    assert log_p[1::2, full].isnan().all()
    assert grad[1::2].isnan().all()
    check(case, logits[::2], backend)
    alone = run(case, logits[::2], torch.ones(width, case.num_nodes), backend)
    assert torch.equal(log_p[::2], alone[0])
    assert torch.equal(grad[::2], alone[1])


@pytest.mark.sample(dtype=[torch.float32], scale=[2.0])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(dtype, 2.0) for dtype in DTYPES] + [(torch.float32, 0.0), (torch.float32, 10.0)],
    ids=str,
)
def test_wide_node(backend: Backend, dtype: torch.dtype, scale: float) -> None:
    """With 100,000 children, the errors of adding one by one would be too large."""
    case = wide_case()
    roundings = roundings_of_sums(dtype, case.num_classes, backend)
    check_large(case, case.logits(2, dtype, scale), backend, roundings)


@pytest.mark.sample(kind=["ever lower"])
@pytest.mark.parametrize("kind", ["chain", "chain of classes", "caterpillar", "ever lower"])
def test_deep_tree(backend: Backend, kind: str) -> None:
    """In thousands of levels, each is 1 below the one above, down to e^-10,000."""
    case = deep_case("caterpillar" if kind == "ever lower" else kind, backend)
    logits = case.logits(2, torch.float32)
    if kind == "ever lower":
        logits -= torch.arange(case.num_classes)
    roundings = 16 + len(case.table.level_ptr)
    check_large(case, logits, backend, roundings, (torch.float64, torch.float32))


@pytest.mark.thorough_on("reference", "triton")
def test_large_tree(backend: Backend) -> None:
    case = large_case()
    check_large(case, case.logits(3, torch.float32), backend, 40)


# --- rows and memory layouts ----------------------------------------------------------------------


@pytest.mark.sample(dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(
    backend: Backend, rng: np.random.Generator, layout: str, dtype: torch.dtype
) -> None:
    for leaves in (1, 7, 50):
        case = TreeCase(trees.random_tree(rng, leaves, roots=min(2, leaves), shuffle=True))
        logits = LAYOUTS[layout](case.logits(6, dtype).to(backend.device))
        check(case, logits, backend)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_incoming_gradient(
    backend: Backend, rng: np.random.Generator, layout: str
) -> None:
    case = some_case(rng)
    incoming = LAYOUTS[layout](torch.randn(6, case.num_nodes))
    check(case, case.logits(len(incoming), torch.float32), backend, incoming=incoming)


def test_rows_far_apart(backend: Backend, rng: np.random.Generator, tmp_path: Path) -> None:
    case = some_case(rng)
    check(case, far_apart(case.logits(2, torch.bfloat16), tmp_path), backend)


@many_rows
@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", FEW)
def test_rows_stand_alone(
    backend: Backend,
    rng: np.random.Generator,
    threads: Callable[[int], None],
    shape: str,
    dtype: torch.dtype,
) -> None:
    """Rows are NaN, partly -inf, far apart, or ordinary."""
    case = TreeCase(SHAPES[shape](rng))
    logits, incoming = case.logits(33, dtype), torch.randn(33, case.num_nodes)
    logits[::5] = torch.nan
    logits[1::5, ::2] -= 300
    logits[2::5, 1::3] = -torch.inf
    assert_rows_stand_alone(
        lambda rows: torch.cat(run(case, logits[rows], incoming[rows], backend), 1),
        threads,
        backend,
    )


@pytest.mark.not_on("triton-interpreted", reason="the interpreter has one thread")
@pytest.mark.sample(rows=[1])
@pytest.mark.parametrize("rows", [1, 2000])
def test_threads(
    backend: Backend, rng: np.random.Generator, threads: Callable[[int], None], rows: int
) -> None:
    """Bits are the same from run to run and, from the kernels, for any number of threads."""
    case = large_case() if rows == 1 and backend.name != "reference" else some_case(rng)
    logits, incoming = case.logits(rows, torch.float32), torch.randn(rows, case.num_nodes)
    first = None
    for count in (1, 2):
        threads(count)
        found = [torch.cat(run(case, logits, incoming, backend), 1) for _ in range(2)]
        first = first if first is not None and backend.name == "cpu" else found[0]
        for result in found:
            assert torch.equal(result, first)


# --- autograd and the compiler --------------------------------------------------------------------


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(shape=["one class", "small forest"])
@pytest.mark.parametrize("shape", ["one class", "stubs", "small forest"])
def test_gradcheck(backend: Backend, rng: np.random.Generator, shape: str) -> None:
    case = TreeCase(SHAPES[shape](rng)) if shape in SHAPES else some_case(rng, 8, shuffle=True)
    full = torch.from_numpy(case.reach.any(axis=1)).to(backend.device)
    logits = case.logits(2, torch.float64).to(backend.device).requires_grad_()

    def of_nodes_with_classes(x: torch.Tensor) -> torch.Tensor:
        return bound(case, backend)(x)[:, full]

    assert torch.autograd.gradcheck(of_nodes_with_classes, (logits,))
    assert torch.autograd.gradgradcheck(of_nodes_with_classes, (logits,))


def test_gradient_penalty(backend: Backend, rng: np.random.Generator) -> None:
    """The gradient of the squared gradient norm is that of the dense formula."""
    case = some_case(rng, 15, shuffle=True)
    logits = case.logits(4, torch.float64).to(backend.device).requires_grad_()
    factor = torch.randn(4, case.num_nodes, dtype=torch.float64, device=backend.device)
    reach = torch.from_numpy(case.reach.T.astype(float)).to(backend.device)

    def penalty(log_p: torch.Tensor) -> torch.Tensor:
        (grad,) = torch.autograd.grad((factor * log_p).sum(), logits, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), logits)[0]

    dense = penalty((logits.softmax(1) @ reach).log())
    torch.testing.assert_close(penalty(bound(case, backend)(logits)), dense)


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_second_backward(backend: Backend, rng: np.random.Generator, dtype: torch.dtype) -> None:
    """The returned gradient belongs to the caller: changing it does not affect the next one."""
    case = some_case(rng)
    logits = case.logits(2, dtype).to(backend.device).requires_grad_()
    log_p = bound(case, backend)(logits)
    before = log_p.detach().clone()
    for factor in (3.0, 1.0, 1.0, -0.25):
        incoming = factor * torch.randn(log_p.shape).to(log_p)
        answer = oracle.node_log_probs_grad(logits, case.reach, incoming)
        (grad,) = torch.autograd.grad(log_p, logits, incoming, retain_graph=True)
        assert_grad_close(grad, answer, roundings=40)
        grad.fill_(7)
        logits.grad = None
        log_p.backward(incoming, retain_graph=True)
        assert_grad_close(logits.grad, answer, roundings=40)
        logits.grad.fill_(7)
    assert torch.equal(log_p, before)


def test_no_graph_without_a_gradient(backend: Backend, rng: np.random.Generator) -> None:
    case = some_case(rng)
    logits = case.logits(4, torch.float32).to(backend.device)
    assert not bound(case, backend)(logits).requires_grad
    logits.requires_grad_()
    assert bound(case, backend)(logits).requires_grad
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert not bound(case, backend)(logits).requires_grad


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ["one class", "shuffled inner classes"])
def test_opcheck(rng: np.random.Generator, shape: str, dtype: torch.dtype) -> None:
    case = TreeCase(SHAPES[shape](rng))
    native = torch.ops.hace_kernels.tree_log_prob.default
    logits = case.logits(5, dtype).requires_grad_()
    torch.library.opcheck(native, (logits, [*case.table[:-1]], case.table.level_ptr))


@pytest.mark.thorough_on("reference", "triton")
def test_compiled(backend: Backend, rng: np.random.Generator) -> None:
    """It is compiled once for all batch sizes, forward and backward in one graph."""
    torch._dynamo.reset()
    case, dtype = some_case(rng), torch.bfloat16
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(bound(case, backend), fullgraph=True, backend=counter)
    for rows in (4, 17, 2):
        logits = case.logits(rows, dtype).to(backend.device).requires_grad_()
        torch._dynamo.mark_dynamic(logits, 0)
        log_p = compiled(logits)
        exact = oracle.node_log_probs(logits, case.reach)
        assert_log_probs_close(log_p.detach(), exact, dtype, roundings=40)
        incoming = torch.randn(rows, case.num_nodes).to(log_p)
        (grad,) = torch.autograd.grad(log_p, logits, incoming)
        answer = oracle.node_log_probs_grad(logits, case.reach, incoming)
        assert_grad_close(grad, answer, roundings=40)
    assert counter.frame_count == 1


@pytest.mark.thorough_on("reference", "triton")
def test_compiled_with_inductor(backend: Backend, rng: np.random.Generator) -> None:
    """The op works inside a graph, where the operations before and after it are fused."""
    torch._dynamo.reset()
    case = some_case(rng, 12)
    features = torch.randn(6, 8, device=backend.device)
    layer = torch.randn(8, case.num_classes, device=backend.device).requires_grad_()
    log_p = bound(case, backend)

    def step(layer: torch.Tensor) -> torch.Tensor:
        return (3 * log_p((features @ layer).tanh() * 4)).exp().square().sum()

    eager = step(layer)
    (eager_grad,) = torch.autograd.grad(eager, layer)
    loss = torch.compile(step, fullgraph=True)(layer)
    (grad,) = torch.autograd.grad(loss, layer)
    torch.testing.assert_close(loss, eager, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, eager_grad, rtol=1e-4, atol=1e-6)


# --- node_log_probs -------------------------------------------------------------------------------


@pytest.mark.sample(size=[(3, 4), (0,)])
@pytest.mark.parametrize("space", ["classes", "nodes"])
@pytest.mark.parametrize("size", [(), (7,), (0,), (3, 4), (2, 3, 2), (2, 0)], ids=str)
def test_node_log_probs_of_every_shape(
    backend: Backend, rng: np.random.Generator, space: str, size: tuple[int, ...]
) -> None:
    """It accepts (C), (N, C) and (N, C, d1, ...); the nodes replace the dimension of classes."""
    tree = SHAPES["nodes without classes"](rng)
    columns = tree if space == "classes" else tree.in_node_mode()
    width = columns.num_classes
    shape = (*size[:1], width, *size[1:])
    logits = torch.randn(shape, dtype=torch.float64)
    dim = min(1, len(size))
    found = node_log_probs(
        logits.to(backend.device),
        TreeCase(tree).hierarchy,
        logit_space=space,
        backend=backend.name,
    ).cpu()
    assert found.shape == (*size[:1], tree.num_nodes, *size[1:])
    rows = logits.movedim(dim, -1).reshape(-1, width)
    exact = oracle.node_log_probs(rows, columns.reach())
    assert_log_probs_close(
        found.movedim(dim, -1).reshape(-1, tree.num_nodes), exact, torch.float64, roundings=40
    )


@pytest.mark.sample(dtype=[torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_node_log_probs_in_every_dtype(
    backend: Backend, rng: np.random.Generator, dtype: torch.dtype
) -> None:
    case = some_case(rng)
    logits = case.logits(6, dtype).to(backend.device).requires_grad_()
    log_p = node_log_probs(logits, case.hierarchy, backend=backend.name)
    exact = oracle.node_log_probs(logits.cpu(), case.reach)
    assert_log_probs_close(log_p.detach().cpu(), exact, dtype, roundings=40)
    log_p[:, 0].sum().backward()
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"input": torch.randn(4, 49)}, ValueError),
        ({"input": torch.randn(())}, ValueError),
        ({"input": torch.zeros(4, 50, dtype=torch.long)}, TypeError),
        ({"logit_space": "leaves"}, ValueError),
        ({"backend": "fortran"}, ValueError),
    ],
    ids=["width", "scalar", "integers", "space", "backend"],
)
def test_node_log_probs_of_wrong_arguments(change: dict[str, Any], error: type[Exception]) -> None:
    case = TreeCase(trees.flat(50))
    arguments = {"input": torch.randn(4, 50), "hierarchy": case.hierarchy, **change}
    with pytest.raises(error):
        node_log_probs(**arguments)


@pytest.mark.parametrize("change", ["vector", "matrices", "narrow", "integers", "fortran"])
def test_wrong_arguments(backend: Backend, rng: np.random.Generator, change: str) -> None:
    case = some_case(rng)
    logits, name = case.logits(4, torch.float32), backend.name
    kinds = {
        "vector": logits[0],
        "matrices": logits[None],
        "narrow": logits[:, 1:],
        "integers": logits.long(),
        "fortran": logits,
    }
    with pytest.raises(TypeError if change == "integers" else ValueError):
        tree_log_prob(kinds[change], case.table, backend="fortran" if change == "fortran" else name)
