"""Tests of the Triton and CUDA kernels that need a GPU; `make test-gpu` runs them.

The parity suite also runs on a GPU, with the same option `--backend=gpu`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import test_tree_log_loss
import test_tree_log_prob
import test_tree_sum
import torch
import tree_cases
import trees
from backend import Backend
from cases import DTYPES, Case, check, expected, in_column_order, interval_case
from oracle import assert_grad_close, assert_loss_close
from tree_cases import TreeCase

from hace_kernels import tree_log_loss, tree_log_prob, tree_sum_down, tree_sum_up
from hace_kernels.backends import choose
from hace_kernels.ops import path_log_loss

pytestmark = pytest.mark.on("gpu")

ROWS, WIDTH = 65_600, 32_768


@pytest.fixture(autouse=True)
def by_this_backend(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `auto` choose the backend for which the test runs."""
    monkeypatch.setenv("HACE_BACKEND", backend.name)


def some_case(width: int) -> Case:
    middle = width // 2
    return interval_case(
        width,
        [
            [(middle, middle + 1, 0.5), (middle - 7, middle + 9, 0.3), (3, width - 5, 0.2)],
            [(0, 1, 0.5), (0, width - 1, 0.5)],
            [(width - 1, width, 1.0)],
        ],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("width", [40, 1000, 4096, 10_007, 16_384, 16_388, 300_000, 1_000_000])
def test_sizes(backend: Backend, width: int, order: str, dtype: torch.dtype) -> None:
    """Rows are right whether whole or split, aligned or not, in chunks or not."""
    case = some_case(width)
    if order == "shuffled":
        case = in_column_order(case, torch.randperm(width).numpy())
    for rows in (1, 5):
        logits, target = case.logits(rows, dtype), torch.arange(rows) % 3
        check(case, logits, target, backend, reduction="mean", roundings=32)
        logits[:, : width // 3] -= 300
        check(case, logits, target, backend, reduction="none", roundings=32)


def test_auto_takes_one_of_them(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HACE_BACKEND")
    for dtype in DTYPES:
        assert choose("path_log_loss", "auto", backend.device, dtype) in ("cuda", "triton")


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("width", [9, 9000])
def test_gradcheck(backend: Backend, width: int, reduction: str) -> None:
    case = interval_case(width, [[(3, 4, 0.5), (2, 7, 0.3)]])
    free = torch.randn(2, 9, dtype=torch.float64, device="cuda", requires_grad=True)
    rest = torch.randn(2, width - 9, dtype=torch.float64, device="cuda")
    target, table = torch.zeros(2, dtype=torch.long, device="cuda"), case.table.to("cuda")

    def loss_of(free: torch.Tensor) -> torch.Tensor:
        logits = torch.cat([free, rest], 1)
        return path_log_loss(logits, target, table, reduction=reduction, backend=backend.name)

    assert torch.autograd.gradcheck(loss_of, (free,), nondet_tol=0)
    assert torch.autograd.gradgradcheck(loss_of, (free,))


@pytest.mark.parametrize("reduction", [0, 1])
def test_opcheck(backend: Backend, reduction: int) -> None:
    case = some_case(1000)
    table = case.table.to("cuda")
    arguments = (
        case.logits(3, torch.float32).cuda().requires_grad_(), torch.arange(3, device="cuda"),
        table.tensors,
            table.max_entries, None,
        0.0, -100, reduction, 0.0, True,
    )  # fmt: skip
    ops = torch.ops.hace_kernels
    op = ops.triton_path_log_loss if backend.name == "triton" else ops.path_log_loss
    torch.library.opcheck(op.default, arguments)


@pytest.mark.parametrize("width", [1000, 200_000])
def test_compiled(backend: Backend, width: int) -> None:
    case = some_case(width)
    table, target = case.table.to("cuda"), torch.arange(3, device="cuda")

    def step(logits: torch.Tensor) -> torch.Tensor:
        return 3 * path_log_loss(logits.tanh() * 4, target, table) + 1

    logits = case.logits(3, torch.float32).cuda().requires_grad_()
    eager = step(logits)
    (eager_grad,) = torch.autograd.grad(eager, logits)
    loss = torch.compile(step, fullgraph=True)(logits)
    (grad,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, eager, rtol=1e-5, atol=0)
    # The slope of tanh loses digits where it is flat, so errors are relative to the largest entry.
    error = (grad - eager_grad).abs().amax(1)
    assert (error <= 1e-5 * eager_grad.abs().amax(1)).all()


@pytest.mark.parametrize("width", [1000, 200_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_graph_capture(backend: Backend, width: int, dtype: torch.dtype) -> None:
    """Nothing waits for the device or copies to it, so a training step can be captured."""
    case = some_case(width)
    table, target = case.table.to("cuda"), torch.arange(3, device="cuda")
    logits = case.logits(3, dtype).cuda().requires_grad_()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        loss = path_log_loss(logits, target, table)
        return loss, torch.autograd.grad(loss, logits)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, grad = step()
    with torch.no_grad():
        logits.copy_(case.logits(3, dtype))
    target.copy_(torch.tensor([2, 0, 1]))
    graph.replay()
    torch.cuda.synchronize()
    answer = expected(case, logits, target.cpu(), reduction="mean")
    assert_loss_close(loss.detach(), answer, dtype, roundings=32)
    assert_grad_close(grad, answer, roundings=32, output_roundings=2)


def test_no_synchronisation(backend: Backend) -> None:
    case = some_case(1000)
    table, target = case.table.to("cuda"), torch.tensor([0, 1, 10**6], device="cuda")
    logits = case.logits(3, torch.float32).cuda().requires_grad_()
    path_log_loss(logits, target, table).backward()  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = path_log_loss(logits, target, table)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isnan(), "a target out of range went unnoticed"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
@pytest.mark.parametrize("width", [1000, 200_000])
def test_another_gpu_than_the_current_one(backend: Backend, width: int) -> None:
    case = some_case(width)
    logits, target, found = case.logits(3, torch.float32), torch.arange(3), []
    for device in ("cuda:0", "cuda:1"):
        x = logits.to(device).requires_grad_()
        loss = path_log_loss(x, target.to(device), case.table.to(device))
        (grad,) = torch.autograd.grad(3 * loss, x)
        found.append((loss.detach().cpu(), grad.cpu()))
        assert torch.cuda.current_device() == 0
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(("rows", "width"), [(4096, 1000), (3, 1_000_000)])
def test_same_bits_again(backend: Backend, rows: int, width: int) -> None:
    case = some_case(width)
    table, target = case.table.to("cuda"), torch.arange(rows, device="cuda") % 3
    logits = case.logits(rows, torch.float32).cuda().requires_grad_()
    runs = []
    for _ in range(5):
        loss = path_log_loss(logits, target, table)
        runs.append((loss.detach(), torch.autograd.grad(loss, logits)[0]))
    for loss, grad in runs[1:]:
        assert torch.equal(loss, runs[0][0])
        assert torch.equal(grad, runs[0][1])


@pytest.mark.parametrize(("rows", "width"), [(4096, 4096), (64, 262_144)])
def test_memory(backend: Backend, rows: int, width: int) -> None:
    """The op takes one buffer for the gradient and little else."""
    case = some_case(width)
    table, target = case.table.to("cuda"), torch.arange(rows, device="cuda") % 3
    logits = torch.randn(rows, width, device="cuda", requires_grad=True)
    path_log_loss(logits, target, table).backward()
    logits.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    path_log_loss(logits, target, table).backward()
    torch.cuda.synchronize()
    used = torch.cuda.max_memory_allocated() - before
    assert used <= 1.05 * logits.numel() * 4 + 2**21


def test_more_than_two_to_the_31_logits(backend: Backend) -> None:
    assert ROWS * WIDTH > 2**31
    needed = 10e9
    free = torch.cuda.mem_get_info()[0]
    if free < needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of free GPU memory, found {free / 1e9:.1f}")
    case = some_case(WIDTH)
    crossing = 2**31 // WIDTH
    rows = torch.tensor([0, 1, crossing - 1, crossing, crossing + 1, ROWS - 2, ROWS - 1])
    logits = torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16, device="cuda")
    logits[rows.cuda()] = (2 * torch.randn(len(rows), WIDTH)).bfloat16().cuda()
    target = torch.arange(ROWS) % 3
    logits.requires_grad_()
    loss = path_log_loss(
        logits, target.cuda(), case.table.to("cuda"), reduction="none", backend=backend.name
    )
    (grad,) = torch.autograd.grad(loss, logits, torch.ones_like(loss))
    answer = expected(case, logits[rows.cuda()], target[rows], reduction="none")
    assert_loss_close(loss[rows.cuda()].detach(), answer, torch.bfloat16, roundings=32)
    assert_grad_close(grad[rows.cuda()], answer, roundings=32)


# --- ops over a whole tree ------------------------------------------------------------------------


def tree_case(leaves: int, roots: int = 3) -> TreeCase:
    """A tree with inner classes and shuffled columns; above some 8,000 leaves, rows are split."""
    rng = np.random.default_rng(0)
    return TreeCase(trees.random_tree(rng, leaves, roots=roots, inner=0.1, shuffle=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leaves", [1, 40, 1000, 2500])
def test_trees(backend: Backend, leaves: int, dtype: torch.dtype) -> None:
    """Every op is right with one program per row, and with several programs per multiprocessor."""
    case = tree_case(leaves, min(3, leaves))
    for rows in (1, 300 if leaves <= 40 else 5) if leaves <= 1000 else (2,):
        for op in test_tree_sum.OPS:
            values = test_tree_sum.values_for(case, op, rows, dtype)
            test_tree_sum.check(case, op, values, backend, roundings=32)
        logits = case.logits(rows, dtype)
        logits[:, ::3] -= 100
        test_tree_log_prob.check(case, logits, backend, roundings=32)
        for kind in test_tree_log_loss.FEW_KINDS:
            target, options = test_tree_log_loss.targets_of(case, kind, rows)
            for eps in (0.0, 1e-6) if leaves <= 1000 else (1e-6,):
                tree_cases.check(case, logits, target, backend, eps=eps, roundings=32, **options)


def step_of(case: TreeCase, name: str) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """An op and its gradient as a function of (rows, C), or of (rows, N) for sums down."""
    table = case.table.to("cuda")
    if name in test_tree_log_loss.KINDS:
        target, options = test_tree_log_loss.targets_of(case, name, 3)
        targets = case.target_table(**options).to("cuda")
        target = tree_cases.to_device(target, torch.device("cuda"))

        def op(x: torch.Tensor) -> torch.Tensor:
            return tree_log_loss(x, target, table, targets)
    else:
        function = {"up": tree_sum_up, "down": tree_sum_down, "log P": tree_log_prob}[name]

        def op(x: torch.Tensor) -> torch.Tensor:
            return function(x, table).square().sum()

    def step(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = op(x)
        return found.detach(), *torch.autograd.grad(found, x)

    return step


STEPS = ["up", "down", "log P", *test_tree_log_loss.FEW_KINDS]


def input_of(case: TreeCase, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    width = case.num_nodes if name == "down" else case.num_classes
    return torch.randn(3, width, device="cuda").to(dtype).requires_grad_()


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("leaves", [300, 30_000])
def test_graph_capture_of_tree_ops(backend: Backend, leaves: int, name: str) -> None:
    """Nothing waits for the device or copies to it, for whole rows and for split rows."""
    case = tree_case(leaves)
    step, x = step_of(case, name), input_of(case, name)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(x)
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    for found, wanted in zip(captured, step(x), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", STEPS)
def test_no_synchronisation_of_tree_ops(backend: Backend, name: str) -> None:
    case = tree_case(300)
    step, x = step_of(case, name), input_of(case, name)
    step(x)  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("leaves", [300, 30_000])
def test_same_bits_again_of_tree_ops(backend: Backend, leaves: int, name: str) -> None:
    """A missing barrier would sooner or later show as different bits."""
    case = tree_case(leaves)
    step, x = step_of(case, name), input_of(case, name, torch.bfloat16)
    first = step(x)
    for _ in range(20):
        for found, wanted in zip(step(x), first, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", ["smoothed", "soft by depth", "probabilities over others"])
def test_split_rows_of_trees(backend: Backend, kind: str) -> None:
    """The large tree agrees with the CPU's kernels in float64."""
    case = tree_cases.large_case()
    logits = case.logits(3, torch.float64)
    target, options = test_tree_log_loss.targets_of(case, kind, 3)
    table = case.target_table(**options)
    cpu = Backend("cpu", torch.device("cpu"))
    wanted = tree_cases.call(case, logits, target, table, cpu, reduction="none")
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        loss, grad = tree_cases.call(
            case, logits.to(dtype), target, table, backend, reduction="none"
        )
        torch.testing.assert_close(loss.cpu().double(), wanted[0], rtol=rtol, atol=0)
        error = (grad.cpu().double() - wanted[1]).abs().amax(1)
        assert (error <= 10 * rtol * wanted[1].abs().amax(1)).all()


def test_memory_of_tree_log_loss(backend: Backend) -> None:
    """The op takes one buffer for the gradient, and scratch memory that fits the L2 cache."""
    case = tree_case(2000)
    table, targets = case.table.to("cuda"), case.target_table(label_smoothing=0.1).to("cuda")
    target = torch.randint(case.num_classes, (16_384,), device="cuda")
    logits = torch.randn(16_384, case.num_classes, device="cuda", requires_grad=True)
    tree_log_loss(logits, target, table, targets, backend=backend.name).backward()
    logits.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    tree_log_loss(logits, target, table, targets, backend=backend.name).backward()
    torch.cuda.synchronize()
    used = torch.cuda.max_memory_allocated() - before
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    assert used <= 1.05 * logits.numel() * 4 + l2 + 2**22
