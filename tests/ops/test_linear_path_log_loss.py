"""A linear layer's loss by tiles of classes agrees with the oracle and with whole logits."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import cases
import numpy as np
import oracle
import pytest
import torch
import trees
from backend import Backend
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from hace_kernels.linear import columns, linear_path_log_loss, linear_topk
from hace_kernels.ops import path_log_loss


def narrow(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Sets the number of classes per tile."""
    monkeypatch.setattr(columns, "tile_width", lambda *shape: width)


def layer(case: cases.Case, rows: int, dtype: torch.dtype, features: int = 6) -> list[torch.Tensor]:
    """Input, weight and bias."""
    shapes = [(rows, features), (case.num_classes, features), (case.num_classes,)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def tiled(parts: list[torch.Tensor], target: torch.Tensor, case: cases.Case, **options: Any) -> Any:
    x, weight, bias = parts
    return linear_path_log_loss(x, weight, target, case.table, bias=bias, logit_bytes=0, **options)


def whole(parts: list[torch.Tensor], target: torch.Tensor, case: cases.Case, **options: Any) -> Any:
    return path_log_loss(linear(*parts), target, case.table, **options)


def assert_same_gradients(
    loss: torch.Tensor, other: torch.Tensor, parts: list[torch.Tensor], roundings: float = 64
) -> None:
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=0)
    unit = oracle.ROUNDOFF[parts[0].dtype]
    for found, wanted in zip(
        torch.autograd.grad(loss, parts), torch.autograd.grad(other, parts), strict=True
    ):
        assert found.dtype == wanted.dtype
        assert ((found - wanted).abs().max() <= roundings * unit * wanted.abs().max()).all()


@pytest.fixture
def case(rng: np.random.Generator) -> cases.Case:
    return cases.tree_case(trees.random_tree(rng, 40, roots=3, inner=0.3, shuffle=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("width", [1, 7, -1, 0, 5])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_against_80_bits(
    case: cases.Case, dtype: torch.dtype, width: int, reduction: str, monkeypatch: Any
) -> None:
    narrow(monkeypatch, width if width in (1, 7) else case.num_classes + width)
    parts, target = layer(case, 9, dtype), case.targets(9)
    target[3] = -100
    incoming = torch.rand(9, dtype=dtype) if reduction == "none" else 1.0
    weights = torch.rand(case.num_targets)
    loss = tiled(parts, target, case, reduction=reduction, target_weight=weights)
    grads = torch.autograd.grad(loss, parts, incoming if reduction == "none" else None)

    x, weight, bias = (oracle.to_real(part) for part in parts)
    unit = oracle.ROUNDOFF[dtype]
    z = x @ weight.T + bias
    z_error = 8 * unit * (np.abs(x) @ np.abs(weight).T + np.abs(bias))
    answer = cases.expected(
        case, z, target, reduction=reduction, target_weight=weights, incoming=incoming
    )
    slack = (16 * unit + 2 * z_error.max(1, keepdims=True)) * answer.grad_scale
    for found, wanted, bound in (
        (loss, answer.loss, np.atleast_1d(answer.loss_scale) * (16 * unit + 2 * z_error.max())),
        (grads[0], answer.grad @ weight, slack @ np.abs(weight)),
        (grads[1], answer.grad.T @ x, slack.T @ np.abs(x)),
        (grads[2], answer.grad.sum(0), slack.sum(0)),
    ):
        error = np.abs(oracle.to_real(found) - wanted)
        assert (error <= bound + oracle.UNDERFLOW[dtype]).all()


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("entropy", [0.3, 0.0])
@pytest.mark.parametrize("repeats", [2, 1])
@pytest.mark.sample(dtype=[torch.bfloat16], entropy=[0.3], repeats=[2])
def test_every_backend(
    case: cases.Case,
    backend: Backend,
    dtype: torch.dtype,
    entropy: float,
    repeats: int,
    monkeypatch: Any,
) -> None:
    """The stages between the products are right, on logits that no dtype rounds."""
    narrow(monkeypatch, 16)
    shapes = [(3, 6), (case.num_classes, 6), (case.num_classes,)]
    wide = [torch.randint(-4, 5, shape).double().div(4).requires_grad_() for shape in shapes]
    parts = [part.detach().to(backend.device, dtype).requires_grad_() for part in wide]
    index, mass = case.targets(3 * repeats).view(3, repeats), torch.rand(3, repeats)
    index[1, 0] = -100

    loss = linear_path_log_loss(
        *parts[:2],
        (index.to(backend.device), mass.to(backend.device)),
        case.table.to(backend.device),
        bias=parts[2],
        entropy=entropy,
        reduction="sum",
        logit_bytes=0,
        backend=backend.name,
    )
    grads = torch.autograd.grad(loss, parts)
    wanted = sum(
        mass[:, k].double() @ whole(wide, index[:, k], case, entropy=entropy, reduction="none")
        for k in range(repeats)
    )
    torch.testing.assert_close(loss.cpu().double(), wanted, rtol=1e-5, atol=0)
    for found, true in zip(grads, torch.autograd.grad(wanted, wide), strict=True):
        assert found.dtype == dtype
        bound = 8 * oracle.ROUNDOFF[dtype] * true.abs().max()
        assert ((found.cpu() - true).abs() <= bound).all()


@pytest.mark.parametrize(
    "options", [{"eps": 1e-3}, {"entropy": 0.3}, {"reduction": "sum"}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_other_options(
    case: cases.Case, dtype: torch.dtype, options: dict[str, Any], monkeypatch: Any
) -> None:
    narrow(monkeypatch, 7)
    parts, target = layer(case, 9, dtype), case.targets(9)
    assert_same_gradients(
        tiled(parts, target, case, **options), whole(parts, target, case, **options), parts
    )


def test_classes_without_mass(monkeypatch: Any) -> None:
    narrow(monkeypatch, 3)
    case = cases.tree_case(trees.balanced([4, 4]))
    parts, target = layer(case, 16, torch.float32), torch.arange(16)
    parts[2].data[4:9] = -torch.inf
    _x, _weight, _bias = parts
    loss = tiled(parts, target, case, reduction="none")
    other = whole(parts, target, case, reduction="none")
    torch.testing.assert_close(loss, other)
    assert loss[4:9].isinf().all()
    incoming = torch.rand(16)
    found = torch.autograd.grad(loss, parts, incoming)
    wanted = torch.autograd.grad(other, parts, incoming)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_rows_that_do_not_count_may_hold_nan(case: cases.Case, monkeypatch: Any) -> None:
    narrow(monkeypatch, 7)
    parts, target = layer(case, 4, torch.float32), case.targets(4)
    clean = torch.autograd.grad(tiled([parts[0][1:], *parts[1:]], target[1:], case), parts)
    parts[0].data[0], target[0] = torch.nan, -100
    loss = tiled(parts, target, case)
    assert loss.isfinite()
    found = torch.autograd.grad(loss, parts)
    assert (found[0][0] == 0).all()
    torch.testing.assert_close(found[0][1:], clean[0][1:])


def test_empty_and_ignored_batches(case: cases.Case) -> None:
    for rows in (0, 3):
        parts, target = layer(case, rows, torch.float32), torch.full((rows,), -100)
        assert tiled(parts, target, case).isnan()
        total = tiled(parts, target, case, reduction="sum")
        assert total == 0
        assert all((grad == 0).all() for grad in torch.autograd.grad(total, parts))
        assert tiled(parts, target, case, reduction="none").shape == (rows,)


def test_small_logits_are_whole_by_default(case: cases.Case) -> None:
    parts, target = layer(case, 5, torch.float32), case.targets(5)
    loss = linear_path_log_loss(*parts[:2], target, case.table, bias=parts[2])
    assert torch.equal(loss, whole(parts, target, case))


def test_without_a_bias(case: cases.Case) -> None:
    (x, weight, _), target = layer(case, 5, torch.float32), case.targets(5)
    loss = linear_path_log_loss(x, weight, target, case.table, logit_bytes=0)
    assert_same_gradients(loss, path_log_loss(linear(x, weight), target, case.table), [x, weight])


def test_a_retained_graph_gives_the_same_again(case: cases.Case) -> None:
    parts, target = layer(case, 5, torch.float32), case.targets(5)
    loss = tiled(parts, target, case)
    once = torch.autograd.grad(loss, parts, retain_graph=True)
    twice = torch.autograd.grad(3 * loss, parts)
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(two, 3 * one)


def test_gradients_add_up(case: cases.Case) -> None:
    parts, target = layer(case, 5, torch.float32), case.targets(5)
    tiled(parts, target, case).backward()
    once = [part.grad.clone() for part in parts]
    tiled(parts, target, case).backward()
    for part, grad in zip(parts, once, strict=True):
        torch.testing.assert_close(part.grad, 2 * grad)


def test_a_second_derivative_is_refused(case: cases.Case) -> None:
    parts, target = layer(case, 5, torch.float64), case.targets(5)
    with pytest.raises(RuntimeError, match="logit_bytes"):
        torch.autograd.grad(tiled(parts, target, case), parts, create_graph=True)


def test_a_changed_weight_is_noticed(case: cases.Case) -> None:
    parts, target = layer(case, 5, torch.float32), case.targets(5)
    loss = tiled(parts, target, case)
    with torch.no_grad():
        parts[1] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Sizes(TorchDispatchMode):
    """Records the sizes of all tensors that ops make, and the number of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        self.products += func.overloadpacket is torch.ops.aten.addmm_
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.numel())
        return out


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("needed", [(0, 1, 2), (0,), (1,), ()], ids=str)
def test_no_tensor_is_as_large_as_the_logits(
    needed: tuple[int, ...], shuffled: bool, monkeypatch: Any
) -> None:
    narrow(monkeypatch, 16)
    case = cases.tree_case(trees.balanced([8, 8]))
    if shuffled:
        case = cases.in_column_order(case, np.random.default_rng(0).permutation(64))
    parts, target = layer(case, 32, torch.float32, features=4), case.targets(32)
    for index, part in enumerate(parts):
        part.requires_grad_(index in needed)
    with Sizes() as sizes:
        loss = tiled(parts, target, case)
        forward = sizes.products
        if needed:
            torch.autograd.grad(loss, [parts[i] for i in needed])
    assert sizes.largest < 32 * 64 // 2
    assert forward == 4
    # Frozen inputs and frozen weights save the product for their gradient.
    assert sizes.products == (4 + 4 * (1 + (0 in needed) + (1 in needed)) if needed else 4)


def test_autocast_casts_by_tiles(case: cases.Case, monkeypatch: Any) -> None:
    narrow(monkeypatch, 7)
    parts, target = layer(case, 9, torch.float32), case.targets(9)
    with torch.autocast("cpu", torch.bfloat16):
        loss, other = tiled(parts, target, case), whole(parts, target, case)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=0)
    found, wanted = torch.autograd.grad(loss, parts), torch.autograd.grad(other, parts)
    for one, two in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert (one - two).abs().max() <= 4 * 2.0**-8 * two.abs().max()


def test_half_precision_gradients_are_no_worse_than_those_of_whole_logits(monkeypatch: Any) -> None:
    narrow(monkeypatch, 32)
    case = cases.tree_case(trees.balanced([8, 8, 8]))
    parts, target = layer(case, 128, torch.bfloat16, features=32), case.targets(128)
    exact = [part.detach().double().requires_grad_() for part in parts]
    wanted = torch.autograd.grad(whole(exact, target, case), exact)
    found = torch.autograd.grad(tiled(parts, target, case), parts)
    unfused = torch.autograd.grad(whole(parts, target, case), parts)
    for name, one, two, true in zip("xWb", found, unfused, wanted, strict=True):
        error, other = ((each.double() - true).norm() for each in (one, two))
        assert error <= (1.5 if name == "x" else 1.05) * other, name


def test_a_bad_target_is_an_index_error(case: cases.Case) -> None:
    parts = layer(case, 2, torch.float32)
    with pytest.raises(IndexError, match="target 99 of row 1"):
        tiled(parts, torch.tensor([0, 99]), case)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (2, 3, 6), r"input must be \(B, F\)"),
        (1, (3, 6), "weight must be"),
        (2, (3,), "bias must be"),
    ],
)
def test_shapes_are_checked(case: cases.Case, index: int, shape: Any, message: str) -> None:
    parts = layer(case, 2, torch.float32)
    parts[index] = torch.randn(shape)
    with pytest.raises(ValueError, match=message):
        tiled(parts, torch.tensor([0, 1]), case)


def test_mixed_dtypes_are_refused_outside_autocast(case: cases.Case) -> None:
    parts = layer(case, 2, torch.float32)
    parts[1] = parts[1].detach().bfloat16()
    with pytest.raises(TypeError, match="autocast"):
        tiled(parts, torch.tensor([0, 1]), case)


MEMORY = """
import sys, torch
sys.path.insert(0, "tests/support")
import trees
from hace_kernels.linear import linear_path_log_loss
rows, features, classes = 256, 64, 1 << 18
table = trees.interval_table([[(i, i + 1, 0.5), (0, 4096, 0.5)] for i in range(rows)], classes)
x = torch.randn(rows, features, requires_grad=True)
weight = torch.randn(classes, features, requires_grad=True)

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) / 1024

def growth(call):
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    result = call()
    return status("VmHWM") - before, result

forward, loss = growth(
    lambda: linear_path_log_loss(x, weight, torch.arange(rows), table, logit_bytes=0)
)
backward, _ = growth(loss.backward)
print(forward, backward - 64)
"""


def test_memory_of_a_process() -> None:
    """Memory stays far below the logits' 256 MiB, not counting weight and gradient of 64 MiB."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    forward, backward = map(float, run.stdout.split())
    assert forward < 64
    assert -1 < backward < 64


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_several_weighted_targets_per_row(
    case: cases.Case, reduction: str, monkeypatch: Any
) -> None:
    narrow(monkeypatch, 7)
    parts = layer(case, 9, torch.float64)
    index = torch.randint(case.num_targets, (9, 3))
    index[2, 1] = -100
    mass, weights = torch.rand(9, 3), torch.rand(case.num_targets)
    options = {"target_weight": weights, "reduction": reduction}
    loss = tiled(parts, (index, mass), case, **options)
    options["reduction"] = "none"
    by_target = [whole(parts, index[:, k], case, **options) * mass[:, k] for k in range(3)]
    wanted = sum(by_target)
    wanted = {"mean": wanted.mean(), "sum": wanted.sum(), "none": wanted}[reduction]
    incoming = torch.rand_like(loss)
    assert_same_gradients((loss * incoming).sum(), (wanted * incoming).sum(), parts)
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("width", [1, 7, -1, 0, 5])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_pairs_against_80_bits(
    case: cases.Case, width: int, reduction: str, monkeypatch: Any
) -> None:
    narrow(monkeypatch, width if width in (1, 7) else case.num_classes + width)
    parts = layer(case, 9, torch.float64)
    index, share = torch.randint(case.num_targets, (9, 3)), torch.rand(9, 3)
    index[2, 1] = index[3, 0] = index[3, 2] = -100
    index[4] = index[7] = -100
    scale = torch.rand(case.num_targets)
    incoming = torch.rand(9, dtype=torch.float64) if reduction == "none" else None
    loss = tiled(parts, (index, share), case, reduction=reduction, target_weight=scale)
    grads = torch.autograd.grad(loss, parts, incoming)

    weights, mass = oracle.to_real(scale)[:, None] * case.weights, 0
    for k in range(3):
        counts = oracle.to_real(torch.where(index[:, k] == -100, 0, share[:, k]))
        mass = mass + counts[:, None] * weights[index[:, k].clamp(min=0).numpy()]
    x, weight, bias = (oracle.to_real(part) for part in parts)
    rows = oracle.node_log_loss(x @ weight.T + bias, case.reach, mass, 0.0)
    answer = oracle.reduce(rows, reduction, 9.0, 1.0 if incoming is None else incoming)
    wanted = (answer.loss, answer.grad @ weight, answer.grad.T @ x, answer.grad.sum(0))
    for found, right in zip((loss, *grads), wanted, strict=True):
        error = np.abs(oracle.to_real(found) - right)
        assert (error <= 1e-13 * np.abs(right).max()).all()
    for ignored in (4, 7):
        assert not grads[0][ignored].any()
        assert reduction == "mean" or loss[ignored] == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rows_whose_pairs_are_all_ignored_may_hold_nan(case: cases.Case, reduction: str) -> None:
    parts = layer(case, 4, torch.float64)
    index, share = torch.randint(case.num_targets, (4, 2)), torch.rand(4, 2)
    index[1] = -100
    wanted = tiled(parts, (index, share), case, reduction=reduction)
    grads = torch.autograd.grad(wanted.sum(), parts)
    with torch.no_grad():
        parts[0][1] = torch.nan
    loss = tiled(parts, (index, share), case, reduction=reduction)
    assert torch.equal(loss, wanted)
    for found, right in zip(torch.autograd.grad(loss.sum(), parts), grads, strict=True):
        assert torch.equal(found, right)
    index[:] = -100
    loss = tiled(parts, (index, share), case, reduction=reduction)
    assert not loss.any()
    assert not any(grad.any() for grad in torch.autograd.grad(loss.sum(), parts))


@pytest.mark.parametrize("shuffled", [False, True])
def test_an_update_by_tiles_sees_each_row_once(shuffled: bool, monkeypatch: Any) -> None:
    narrow(monkeypatch, 7)
    case = cases.tree_case(trees.balanced([8, 8]))
    if shuffled:
        case = cases.in_column_order(case, np.random.default_rng(0).permutation(64))
    parts, target = layer(case, 5, torch.float32), case.targets(5)
    wanted = torch.autograd.grad(tiled(parts, target, case), parts)
    before = parts[1].detach().clone()

    def descend(rows: torch.Tensor | slice, grad: torch.Tensor) -> None:
        assert len(grad) <= 7
        with torch.no_grad():
            parts[1][rows] -= 0.5 * grad

    tiled(parts, target, case, on_weight_grad=descend).backward()
    assert parts[1].grad is None
    torch.testing.assert_close(parts[1].detach(), before - 0.5 * wanted[1])
    for index in (0, 2):
        torch.testing.assert_close(parts[index].grad, wanted[index])


@pytest.mark.parametrize("k", [1, 3, 64])
def test_the_largest_logits(k: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("hace_kernels.linear.topk.tile_width", lambda *shape: 5)
    x, weight, bias = (torch.randn(shape) for shape in ((6, 4), (64, 4), (64,)))
    wanted = linear(x, weight, bias).log_softmax(1).topk(k)
    order = torch.randperm(64).int()
    for each in (None, order):
        found = linear_topk(x, weight, k, bias=bias, order=each)
        torch.testing.assert_close(found.log_prob, wanted.values)
        assert torch.equal(found.column, wanted.indices)
    with pytest.raises(ValueError, match="between 1 and the 64 classes"):
        linear_topk(x, weight, 65)
