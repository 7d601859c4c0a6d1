"""Losses of logits (N, C, S), whose pixels are rows, agree with the oracle, also in derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import tree_cases
import trees
from backend import Backend, kernels_give_nan, many_rows
from cases import DTYPES, Case, evaluate, expected, tree_case
from test_tree_log_loss import FEW_KINDS, targets_of
from tree_cases import TreeCase

import hace
from hace_kernels import path_log_loss, tree_log_loss

pytestmark = pytest.mark.parity

#: Other layouts with the same values, made from contiguous (N, C, S).
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.movedim(1, 2).contiguous().movedim(2, 1),
    "part of wider ones": lambda x: torch.nn.functional.pad(x, (3, 5), value=9e3)[:, :, 3:-5],
    "every second image": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "every second column": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "every second pixel": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "images all the same": lambda x: x[:1].expand_as(x),
    "pixels all the same": lambda x: x[:, :, :1].expand_as(x),
}


def to_pixels(rows: torch.Tensor, images: int) -> torch.Tensor:
    return rows.reshape(images, len(rows) // images, -1).movedim(1, 2).contiguous()


def to_rows(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.movedim(1, 2).reshape(-1, pixels.shape[1])


def check_paths(
    case: Case, pixels: torch.Tensor, target: torch.Tensor, backend: Backend, **options: Any
) -> None:
    table, weight = case.table.to(backend.device), options.get("target_weight")
    called = {**options, "target_weight": weight if weight is None else weight.to(backend.device)}
    incoming = called.pop("incoming", 1.0)
    loss, grad = evaluate(
        lambda x, y: path_log_loss(x, y, table, backend=backend.name, **called),
        pixels.to(backend.device),
        target.to(backend.device),
        incoming,
    )
    assert grad.shape == pixels.shape
    assert grad.dtype == pixels.dtype
    answer = expected(case, to_rows(pixels), target, **options)
    oracle.assert_loss_close(loss, answer, pixels.dtype)
    oracle.assert_grad_close(to_rows(grad), answer, output_roundings=2)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(dtype=[torch.bfloat16], layout=["part of wider ones"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(
    backend: Backend, rng: np.random.Generator, layout: str, dtype: torch.dtype
) -> None:
    case = tree_case(trees.random_tree(rng, 37, roots=3, shuffle=True))
    pixels = LAYOUTS[layout](to_pixels(case.logits(2 * 21, dtype), 2))
    check_paths(case, pixels, case.targets(2 * 21), backend, reduction="mean")


@many_rows
@pytest.mark.thorough_on("reference")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_sizes(
    backend: Backend, rng: np.random.Generator, shuffle: bool, dtype: torch.dtype
) -> None:
    """Sizes are around every vector size, and around the patches of pixels that kernels work on."""
    sizes = [(1, 1), (7, 5), (15, 16), (16, 17), (17, 31), (33, 33), (129, 8), (300, 90)]
    for classes, size in sizes:
        case = tree_case(trees.random_tree(rng, classes, roots=min(2, classes), shuffle=shuffle))
        pixels = to_pixels(case.logits(2 * size, dtype), 2)
        check_paths(case, pixels, case.targets(2 * size), backend, reduction="sum")


@many_rows
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_options(backend: Backend, rng: np.random.Generator, eps: float, reduction: str) -> None:
    case = tree_case(trees.random_tree(rng, 50, shuffle=True), keep_full=eps > 0)
    target = case.targets(3 * 19)
    target[::6] = -7
    weight = torch.rand(case.num_targets)
    weight[::7] = 0
    incoming = torch.rand(3 * 19, dtype=torch.float64) if reduction == "none" else 3.0
    check_paths(
        case,
        to_pixels(case.logits(3 * 19, torch.float32), 3),
        target,
        backend,
        target_weight=weight,
        ignore_index=-7,
        reduction=reduction,
        eps=eps,
        incoming=incoming,
    )


@pytest.mark.thorough_on("triton")
@many_rows
@pytest.mark.sample(kind=["soft pairs"], eps=[1e-3])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("kind", [*FEW_KINDS, "probabilities"])
def test_soft_targets(
    backend: Backend, rng: np.random.Generator, kind: str, eps: float, layout: str
) -> None:
    case = TreeCase(trees.random_tree(rng, 37, roots=3, shuffle=True))
    for dtype in (torch.float32, torch.float16, torch.float64):
        images, size = 2, 23
        rows = case.logits(images * size, dtype)
        target, options = targets_of(case, kind, images * size)
        table = case.target_table(0.7, target=target, **options).to(backend.device)
        given = target
        if "probabilities" in kind:
            given = LAYOUTS[layout](to_pixels(target, images))
        loss, grad = evaluate(
            lambda x, y, table=table: tree_log_loss(
                x, y, case.table.to(backend.device), table, eps=eps, backend=backend.name
            ),
            LAYOUTS[layout](to_pixels(rows, images)).to(backend.device),
            tree_cases.to_device(given, backend.device),
        )
        answer = tree_cases.expected(case, rows, target, eps=eps, **options)
        oracle.assert_loss_close(loss, answer, dtype, 16 + case.depth)
        oracle.assert_grad_close(to_rows(grad), answer, roundings=16 + case.depth)


def test_no_pixels(backend: Backend, rng: np.random.Generator) -> None:
    case = tree_case(trees.random_tree(rng, 20))
    for shape in ((0, 20, 9), (3, 20, 0)):
        for reduction in ("sum", "mean", "none"):
            x = torch.zeros(shape, device=backend.device, requires_grad=True)
            target = torch.zeros(0, dtype=torch.int64, device=backend.device)
            loss = path_log_loss(
                x,
                target,
                case.table.to(backend.device),
                reduction=reduction,
                backend=backend.name,
            )
            loss.sum().backward()
            assert x.grad is not None
            assert x.grad.shape == shape
            assert loss.shape == ((0,) if reduction == "none" else ())
            assert bool(loss.isnan().all()) if reduction == "mean" else loss.sum() == 0


@pytest.mark.thorough_on("triton")
@many_rows
@pytest.mark.not_on("reference", reason="it takes pixels as rows")
def test_rows_stand_alone(backend: Backend, rng: np.random.Generator) -> None:
    """Pixels that are NaN, partly -inf, far apart or ignored give the same as rows."""
    case = tree_case(trees.random_tree(rng, 40, roots=2, shuffle=True))
    rows = case.logits(2 * 24, torch.float32)
    rows[3] = torch.nan
    rows[7, 5] = torch.inf
    rows[9:12, ::2] = -torch.inf
    rows[13] = -torch.inf
    rows[20:23] *= 1e4
    target = case.targets(2 * 24)
    target[30:36] = -100
    table = case.table.to(backend.device)

    def loss_fn(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return path_log_loss(x, y, table, reduction="none", backend=backend.name)

    there = rows.to(backend.device)
    loss, grad = evaluate(loss_fn, there, target.to(backend.device))
    found, found_grad = evaluate(loss_fn, to_pixels(there, 2), target.to(backend.device))
    # The same to a few roundings, since kernels may work on other rows side by side.
    torch.testing.assert_close(found, loss, rtol=1e-6, atol=0, equal_nan=True)
    torch.testing.assert_close(to_rows(found_grad), grad, rtol=3e-6, atol=1e-9, equal_nan=True)


@pytest.mark.not_on(
    *("reference", "cuda-emulated", "triton-interpreted", "gpu"), reason="they make rows of pixels"
)
@pytest.mark.parametrize("smoothed", [False, True])
def test_any_number_of_threads(backend: Backend, rng: np.random.Generator, smoothed: bool) -> None:
    case = TreeCase(trees.random_tree(rng, 150, roots=3, shuffle=True))
    table = case.target_table(0.7, label_smoothing=0.1 * smoothed)
    pixels, target = to_pixels(case.logits(3 * 700, torch.float32), 3), case.targets(3 * 700)
    threads, answers = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            answers.append(
                evaluate(
                    lambda x, y: (
                        tree_log_loss(x, y, case.table, table, backend=backend.name)
                        if smoothed
                        else path_log_loss(x, y, tree_case(case.tree).table, backend=backend.name)
                    ),
                    pixels,
                    target,
                )
            )
    finally:
        torch.set_num_threads(threads)
    for loss, grad in answers[1:]:
        assert torch.equal(loss, answers[0][0])
        assert torch.equal(grad, answers[0][1])


@kernels_give_nan
def test_bad_targets(backend: Backend, rng: np.random.Generator) -> None:
    case = tree_case(trees.random_tree(rng, 20))
    target = case.targets(2 * 16)
    target[19] = 20
    with pytest.raises(IndexError, match="target 20"):
        path_log_loss(torch.zeros(2, 20, 16), target, case.table, backend=backend.name)
    with pytest.raises(ValueError, match=r"must be \(32,\)"):
        path_log_loss(torch.zeros(2, 20, 16), target[:16], case.table, backend=backend.name)
    with pytest.raises(ValueError, match=r"\(N, 20, S\)"):
        path_log_loss(torch.zeros(2, 16, 20), target, case.table, backend=backend.name)


@pytest.mark.not_on(
    *("reference", "cuda-emulated", "triton-interpreted", "gpu"), reason="they make rows of pixels"
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_derivatives(backend: Backend, rng: np.random.Generator, reduction: str) -> None:
    """First and second derivatives are right, in both modes, batched and compiled."""
    case = tree_case(trees.random_tree(rng, 5))
    target = case.targets(2 * 3)
    target[1] = -100

    def loss(x: torch.Tensor) -> torch.Tensor:
        return path_log_loss(x, target, case.table, reduction=reduction, backend=backend.name)

    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, (x,), check_batched_grad=True)
    (twice,) = torch.autograd.grad(loss(x).sum(), x, create_graph=True)
    assert twice.shape == x.shape
    several = torch.randn(3, 2, 5, 3, dtype=torch.float64)
    found = torch.func.vmap(torch.func.grad(lambda x: loss(x).sum()))(several)
    for part, one in zip(found, several, strict=True):
        one = one.clone().requires_grad_()
        torch.testing.assert_close(part, torch.autograd.grad(loss(one).sum(), one)[0])
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), loss(x))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x).sum(), x)[0], torch.autograd.grad(loss(x).sum(), x)[0]
    )


@many_rows
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "cropped", "expanded"])
@pytest.mark.parametrize("kind", ["index", "smoothed", "probabilities", "pairs", "ignored"])
def test_losses_of_images(
    backend: Backend, rng: np.random.Generator, kind: str, layout: str
) -> None:
    """(N, C, H, W) gives the same as its rows; the CPU's gradient has the layout of the logits."""
    hierarchy = tree_cases.hierarchy_of(trees.random_tree(rng, 12, roots=2, shuffle=True))
    x = torch.randn(2, 12, 5, 8, device=backend.device)
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "cropped":
        x = torch.nn.functional.pad(x, (2, 1, 1, 0), value=9e3)[:, :, 1:, 2:-1]
    elif layout == "expanded":
        x = x[:, :, :1, :].expand(-1, -1, 5, -1)
    rows = x.movedim(1, -1).reshape(-1, 12)
    index = torch.randint(12, (2, 5, 8), device=backend.device)
    if kind == "ignored":
        index[:, 2] = -100
    target: Any = index
    target_rows: Any = index.flatten()
    if kind == "probabilities":
        target = torch.rand(2, 12, 5, 8, device=backend.device).softmax(1)
        target_rows = target.movedim(1, -1).reshape(-1, 12)
    elif kind == "pairs":
        weight = torch.rand(2, 3, 5, 8, device=backend.device)
        target = torch.stack([index, (index + 1) % 12, (index + 5) % 12], 1), weight
        target_rows = tuple(part.movedim(1, -1).reshape(-1, 3) for part in target)
    loss_fn = hace.HACELoss(
        hierarchy, label_smoothing=0.1 * (kind == "smoothed"), backend=backend.name
    )
    loss, grad = evaluate(loss_fn, x, target)
    of_rows, grad_of_rows = evaluate(loss_fn, rows, target_rows)
    torch.testing.assert_close(loss, of_rows)
    torch.testing.assert_close(grad.movedim(1, -1).reshape(-1, 12), grad_of_rows)
    if backend.name == "cpu" and layout in ("contiguous", "channels last"):
        assert grad.stride() == x.stride()
