"""`path_log_loss` in PyTorch's machinery: autograd, dispatch, compilation and threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import trees
from backend import Backend, kernels_give_nan
from cases import DTYPES, REDUCTIONS, Case, call, check, expected, interval_case, tree_case
from oracle import assert_grad_close, assert_loss_close
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from hace_kernels import native
from hace_kernels.ops import path_log_loss

pytestmark = pytest.mark.parity

needs_native = pytest.mark.skipif(
    native.load_error is not None,
    reason="the op torch.ops.hace_kernels.path_log_loss comes with the native library",
)


@pytest.fixture
def case(rng: np.random.Generator) -> Case:
    return tree_case(trees.random_tree(rng, 25, roots=2, inner=0.2, shuffle=True))


def bound(case: Case, backend: Backend, **options: Any) -> Callable[..., torch.Tensor]:
    """The op as a function of only logits and target."""
    table = case.table.to(backend.device)

    def loss_of(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return path_log_loss(logits, target, table, backend=backend.name, **options)

    return loss_of


def inputs(case: Case, backend: Backend, rows: int, dtype: torch.dtype) -> tuple:
    logits, target = case.logits(rows, dtype), case.targets(rows)
    return logits.to(backend.device).requires_grad_(), target.to(backend.device)


# --- backward -------------------------------------------------------------------------------------


@pytest.mark.sample(reduction=["mean"], dtype=[torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_second_backward(backend: Backend, case: Case, reduction: str, dtype: torch.dtype) -> None:
    """Each backward pass of one graph is right for its own incoming factor.

    The returned gradient belongs to the caller: changing it in place must not affect the next one.
    """
    logits, target = inputs(case, backend, 3, dtype)
    loss = bound(case, backend, reduction=reduction)(logits, target)
    for factor in (3.0, 1.0, 1.0, -0.25):
        incoming = torch.full_like(loss, factor)
        answer = expected(case, logits, target, reduction=reduction, incoming=factor)
        (grad,) = torch.autograd.grad(loss, logits, incoming, retain_graph=True)
        assert_grad_close(grad, answer, output_roundings=2)
        grad.fill_(7)
        logits.grad = None
        loss.backward(incoming, retain_graph=True)
        assert_grad_close(logits.grad, answer, output_roundings=2)
        logits.grad.fill_(7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_incoming_gradients_differ_by_row(backend: Backend, case: Case, dtype: torch.dtype) -> None:
    incoming = torch.tensor([1.0, 0.0, -2.0, 1e-3, 100.0, 1.0])
    check(
        case,
        case.logits(6, dtype),
        case.targets(6),
        backend,
        reduction="none",
        incoming=incoming,
    )


@pytest.mark.sample(reduction=["mean"], factor=[65536.0], dtype=[torch.float16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("factor", [65536.0, 2.0**-10, 0.0])
def test_scaled_loss(backend: Backend, reduction: str, factor: float, dtype: torch.dtype) -> None:
    """A GradScaler's factor applies before the gradient is rounded, so small entries survive."""
    case = tree_case(trees.balanced([4, 5]))
    rows = 16
    logits = case.logits(rows, dtype, scale=1.0)
    logits[:, :5] -= 16
    factor = factor / rows if reduction != "mean" else factor
    options: dict[str, Any] = {"reduction": reduction, "incoming": factor}
    _loss, grad = call(case, logits, torch.arange(rows) % 15 + 5, backend, **options)
    answer = expected(case, logits, torch.arange(rows) % 15 + 5, **options)
    assert_grad_close(grad, answer, output_roundings=2)
    if factor > 1:
        assert (grad != 0).all(), "entries were flushed to zero before they were scaled"


def test_two_losses_of_the_same_logits(backend: Backend, case: Case) -> None:
    logits, target = inputs(case, backend, 6, torch.float32)
    other = target.flip(0)
    first = bound(case, backend, reduction="mean")(logits, target)
    second = bound(case, backend, reduction="sum")(logits, other)
    (2 * first + second).backward()
    one = expected(case, logits, target, reduction="mean", incoming=2.0)
    two = expected(case, logits, other, reduction="sum")
    both = replace(one, grad=one.grad + two.grad, grad_scale=one.grad_scale + two.grad_scale)
    assert_grad_close(logits.grad, both)


def test_expanded_logits_sum_their_gradient(backend: Backend, case: Case) -> None:
    row = case.logits(1, torch.float64).to(backend.device).requires_grad_()
    target = case.targets(5).to(backend.device)
    bound(case, backend, reduction="sum")(row.expand(5, -1), target).backward()
    answer = expected(case, row.expand(5, -1), target, reduction="sum")
    torch.testing.assert_close(
        row.grad[0].cpu(),
        torch.from_numpy(answer.grad.sum(0).astype(float)),
        rtol=1e-13,
        atol=1e-14,
    )


class Watch(TorchDispatchMode):
    """Records the sizes of the results of this library's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[list[int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "hace_kernels":
            outputs = result if isinstance(result, (tuple, list)) else (result,)
            self.sizes.append([output.numel() for output in outputs])
        return result


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "constant"])
def test_no_gradient_work_without_a_gradient(backend: Backend, case: Case, how: str) -> None:
    logits, target = inputs(case, backend, 4, torch.float32)
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(
        how, torch.enable_grad
    )
    with context(), Watch() as watch:
        loss = bound(case, backend)(logits.detach() if how == "constant" else logits, target)
    assert not loss.requires_grad
    assert all(logits.numel() not in sizes for sizes in watch.sizes)
    answer = expected(case, logits, target)
    assert_loss_close(loss, answer, torch.float32)


def test_requires_grad_follows_the_logits(backend: Backend, case: Case) -> None:
    logits, target = inputs(case, backend, 4, torch.float32)
    assert bound(case, backend)(logits, target).requires_grad
    assert not bound(case, backend)(logits.detach(), target).requires_grad


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(reduction=["mean"], eps=[1e-2], weighted=[True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("eps", [0.0, 1e-2])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_gradcheck(
    backend: Backend, rng: np.random.Generator, reduction: str, eps: float, weighted: bool
) -> None:
    tree = trees.random_tree(rng, 7, roots=2, shuffle=True)
    case = tree_case(tree, keep_full=eps > 0)
    logits, target = inputs(case, backend, 4, torch.float64)
    target[1] = -100
    weight = torch.rand(case.num_targets, dtype=torch.float64, device=backend.device) + 0.5
    loss_of = bound(
        case,
        backend,
        reduction=reduction,
        eps=eps,
        target_weight=weight if weighted else None,
    )
    assert torch.autograd.gradcheck(loss_of, (logits, target))
    assert torch.autograd.gradgradcheck(loss_of, (logits, target))


@pytest.mark.thorough_on("triton")
def test_gradgradcheck_across_an_underflowing_path(backend: Backend) -> None:
    """Double backward stays exact in log space: the target's logit is 1,000 below the others."""
    case = interval_case(6, [[(1, 2, 0.5), (0, 3, 0.5)]])
    logits = torch.randn(2, 6, dtype=torch.float64, device=backend.device)
    logits[:, :3] -= 1000
    target = torch.zeros(2, dtype=torch.long, device=backend.device)
    assert torch.autograd.gradgradcheck(
        bound(case, backend, reduction="sum"), (logits.requires_grad_(), target)
    )


def test_gradient_penalty(backend: Backend, case: Case) -> None:
    """The gradient of the squared gradient norm is that of the dense formula."""
    logits, target = inputs(case, backend, 5, torch.float64)
    mass = torch.from_numpy(case.weights[target.cpu().numpy()]).to(backend.device)
    reach = torch.from_numpy(case.reach.T.astype(float)).to(backend.device)

    def penalty(loss: torch.Tensor) -> torch.Tensor:
        (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), logits)[0]

    dense = -(mass * (logits.softmax(1) @ reach).log()).sum()
    found = penalty(bound(case, backend, reduction="sum")(logits, target))
    torch.testing.assert_close(found, penalty(dense), rtol=1e-10, atol=1e-12)


# --- the raw op and the compiler ------------------------------------------------------------------


def raw_arguments(
    case: Case,
    dtype: torch.dtype,
    *,
    weighted: bool = False,
    entropy: float = 0.0,
    reduction: int = 0,
    eps: float = 0.0,
    with_grad: bool = True,
) -> tuple:
    logits = case.logits(5, dtype).requires_grad_(with_grad)
    weight = torch.rand(case.num_targets, dtype=torch.float64)
    table = case.table
    return (
        logits,
        case.targets(5),
        table.tensors,
        table.max_entries,
        weight if weighted else None,
        entropy,
        -100,
        reduction,
        eps,
        with_grad,
    )


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"reduction": 0},
        {"reduction": 1, "weighted": True},
        {"reduction": 2},
        {"reduction": 1, "with_grad": False},
    ],
    ids=["none", "mean weighted", "sum", "without gradient"],
)
def test_opcheck(case: Case, options: dict[str, Any], dtype: torch.dtype) -> None:
    arguments = raw_arguments(case, dtype, **options)
    torch.library.opcheck(torch.ops.hace_kernels.path_log_loss.default, arguments)


@needs_native
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_raw_op_gives_no_gradient_unless_asked(rng: np.random.Generator, order: str) -> None:
    case = tree_case(trees.random_tree(rng, 20, shuffle=order == "shuffled"))
    arguments = raw_arguments(case, torch.float32, with_grad=False)
    loss, grad = torch.ops.hace_kernels.path_log_loss(*arguments)
    assert grad.numel() == 0
    answer = expected(case, arguments[0], arguments[1], reduction="none")
    assert_loss_close(loss, answer, torch.float32)


@pytest.mark.thorough_on("reference", "triton")
@pytest.mark.sample(reduction=["none"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled(backend: Backend, case: Case, reduction: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    logits, target = inputs(case, backend, 6, dtype)
    target[2] = -100
    compiled = torch.compile(
        bound(case, backend, reduction=reduction), fullgraph=True, backend="aot_eager"
    )
    loss = compiled(logits, target)
    incoming = torch.linspace(-1, 2, loss.numel(), device=loss.device).view_as(loss)
    (grad,) = torch.autograd.grad(loss, logits, incoming)
    answer = expected(case, logits, target, reduction=reduction, incoming=incoming.cpu().numpy())
    assert_loss_close(loss.detach(), answer, dtype)
    assert_grad_close(grad, answer, output_roundings=2)


@pytest.mark.thorough_on("reference", "triton")
def test_compiled_with_inductor(backend: Backend, case: Case) -> None:
    """The op works inside a graph, where the operations before and after it are fused."""
    torch._dynamo.reset()
    features = torch.randn(6, 8, device=backend.device)
    layer = torch.randn(8, case.num_classes, device=backend.device).requires_grad_()
    target = case.targets(6).to(backend.device)
    loss_of = bound(case, backend)

    def step(layer: torch.Tensor) -> torch.Tensor:
        return 3 * loss_of((features @ layer).tanh() * 4, target) + 1

    eager = step(layer)
    (eager_grad,) = torch.autograd.grad(eager, layer)
    loss = torch.compile(step, fullgraph=True)(layer)
    (grad,) = torch.autograd.grad(loss, layer)
    torch.testing.assert_close(loss, eager, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad, eager_grad, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough_on("reference", "triton")
def test_compiled_once_for_all_batch_sizes(backend: Backend, case: Case) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(bound(case, backend), fullgraph=True, backend=counter)
    for rows in (4, 5, 17, 2, 33):
        logits, target = inputs(case, backend, rows, torch.float32)
        torch._dynamo.mark_dynamic(logits, 0)
        torch._dynamo.mark_dynamic(target, 0)
        loss = compiled(logits, target)
        assert_loss_close(loss.detach(), expected(case, logits, target), torch.float32)
    assert counter.frame_count == 1


@pytest.mark.thorough_on("reference", "cuda", "triton")
@kernels_give_nan
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_compiled_target_out_of_range(backend: Backend, case: Case, bad: int) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(bound(case, backend), fullgraph=True, backend="aot_eager")
    logits, target = inputs(case, backend, 4, torch.float32)
    target[3] = bad
    if backend.name == "reference":  # compiled PyTorch operations cannot raise
        assert compiled(logits, target).isnan()
    else:
        with pytest.raises((RuntimeError, IndexError), match=str(bad)):
            compiled(logits, target)


# --- determinism ----------------------------------------------------------------------------------


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(rows=[1], dtype=[torch.float32])
@pytest.mark.parametrize(
    ("rows", "width"), [(1, 300_000), (3, 300_000), (3000, 40)], ids=["1 row", "3 rows", "many"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads(
    backend: Backend,
    threads: Callable[[int], None],
    rows: int,
    width: int,
    dtype: torch.dtype,
) -> None:
    """Bits are the same from run to run and, from the C++ kernel, for any number of threads."""
    middle = width // 2
    paths = [
        [(middle, middle + 1, 0.5), (middle - 7, middle + 9, 0.3), (3, width - 5, 0.2)],
        [(0, 1, 0.5), (0, width - 1, 0.5)],
    ]
    case = interval_case(width, paths)
    logits, target = case.logits(rows, dtype), torch.arange(rows) % 2
    answer = expected(case, logits, target, reduction="mean")
    first = None
    for count in (1, 2):
        threads(count)
        runs = [call(case, logits, target, backend, reduction="mean") for _ in range(3)]
        first = first if first and backend.name == "cpu" else runs[0]
        for loss, grad in runs:
            assert torch.equal(loss, first[0])
            assert torch.equal(grad, first[1])
        assert_loss_close(runs[0][0], answer, dtype, roundings=32)
        assert_grad_close(runs[0][1], answer, roundings=32)
