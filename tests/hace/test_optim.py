"""Optimisers by tiles make the same steps as torch.optim on the gradients of whole logits."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hace
from hace.optim import TileAdagrad, TileAdam, TileOptimizer, TileSGD
from hace_kernels.linear import columns

FEATURES, CLASSES = 5, 24


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes tiles of a few classes."""
    monkeypatch.setattr(columns, "tile_width", lambda *shape: 7)


TREE = hace.Hierarchy.from_paths(
    [f"{a}/{b}/{c}" for c in range(2) for a in range(3) for b in range(4)]
)

OPTIMISERS: list[tuple[type[TileOptimizer], type[torch.optim.Optimizer], dict[str, Any]]] = [
    (TileSGD, torch.optim.SGD, {"lr": 2.0}),
    (TileSGD, torch.optim.SGD, {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.01}),
    (TileSGD, torch.optim.SGD, {"lr": 1.0, "momentum": 0.5, "nesterov": True}),
    (TileAdagrad, torch.optim.Adagrad, {"lr": 0.1, "weight_decay": 0.01}),
    (TileAdagrad, torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    (TileAdam, torch.optim.Adam, {"lr": 0.1}),
    (TileAdam, torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1}),
    (TileAdam, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
]


def made(
    cls: type[TileOptimizer], twin: type[torch.optim.Optimizer], weight: Tensor, options: Any
) -> TileOptimizer:
    """The optimiser by tiles with the options of its counterpart in torch."""
    if twin is torch.optim.AdamW:
        options = {**options, "decoupled_weight_decay": True}
    return cls(weight, **options)


def loss_of(ordered: bool) -> hace.HACELoss:
    """A loss whose tiles are slices (if `ordered`) or gathered rows."""
    return hace.HACELoss(TREE, 0.5, logit_space="depth_first" if ordered else "classes")


def tile_step(loss_fn: hace.HACELoss, weight: Tensor, x: Tensor, y: Tensor, tile: Any) -> None:
    """One backward pass that updates the weight."""
    loss_fn.linear(x, weight, y, logit_bytes=0, on_weight_grad=tile).backward()
    tile.step()


@pytest.mark.parametrize(("cls", "twin", "options"), OPTIMISERS)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_steps_are_those_of_torch(
    cls: type[TileOptimizer],
    twin: Callable[..., torch.optim.Optimizer],
    options: dict[str, Any],
    ordered: bool,
    dtype: torch.dtype,
) -> None:
    loss_fn = loss_of(ordered)
    weight = nn.Parameter(torch.randn(CLASSES, FEATURES, dtype=dtype))
    other = nn.Parameter(weight.detach().clone())
    tile, whole = made(cls, twin, weight, options), twin([other], **options)  # type: ignore[arg-type]
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.8) for each in (tile, whole)]
    for step in range(4):
        x, y = torch.randn(9, FEATURES, dtype=dtype), torch.randint(CLASSES, (9,))
        # Adam divides by |gradient|, so both optimisers must see the same gradient, not one that
        # the rounding of an earlier step has changed.
        with torch.no_grad():
            start = weight.clone()
            other.copy_(weight)
        whole.zero_grad()
        loss_fn(nn.functional.linear(x, other), y).backward()
        whole.step()
        tile_step(loss_fn, weight, x, y, tile)
        for each in schedules:
            each.step()
        assert (weight - start).abs().max() > 1e-4
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(weight, other, rtol=tolerance, atol=tolerance, msg=f"{step}")
    assert weight.grad is None


@pytest.mark.parametrize(("cls", "twin", "options"), OPTIMISERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_same_gradient_makes_the_same_step(
    cls: type[TileOptimizer], twin: Any, options: dict[str, Any], dtype: torch.dtype
) -> None:
    weight = nn.Parameter(torch.randn(CLASSES, FEATURES).to(dtype))
    other = nn.Parameter(weight.detach().clone())
    tile, whole = made(cls, twin, weight, options), twin([other], **options)
    rows = torch.randperm(CLASSES)
    for _ in range(3):
        other.grad = torch.randn(CLASSES, FEATURES).to(dtype)
        for part in rows.split(7):
            tile(part, other.grad[part])
        whole.step()
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(weight, other, rtol=tolerance, atol=tolerance)


def test_adam_without_memory() -> None:
    weight = nn.Parameter(torch.randn(CLASSES, FEATURES))
    other = nn.Parameter(weight.detach().clone())
    tile, whole = TileAdam(weight, betas=(0.0, 0.0)), torch.optim.Adam([other], betas=(0.0, 0.0))
    other.grad = torch.randn(CLASSES, FEATURES)
    tile(slice(0, CLASSES), other.grad)
    whole.step()
    torch.testing.assert_close(weight, other)


@pytest.mark.parametrize(("cls", "twin", "options"), OPTIMISERS)
def test_a_loaded_state_goes_on_the_same(
    cls: type[TileOptimizer], twin: Any, options: dict[str, Any]
) -> None:
    loss_fn = loss_of(False)
    weight = nn.Parameter(torch.randn(CLASSES, FEATURES))
    tile = made(cls, twin, weight, options)
    batches = [(torch.randn(9, FEATURES), torch.randint(CLASSES, (9,))) for _ in range(4)]
    for x, y in batches[:2]:
        tile_step(loss_fn, weight, x, y, tile)
    file = io.BytesIO()
    torch.save(tile.state_dict(), file)
    file.seek(0)
    copy = nn.Parameter(weight.detach().clone())
    resumed = made(cls, twin, copy, {**options, "lr": 77.0})
    resumed.load_state_dict(torch.load(file))
    for x, y in batches[2:]:
        tile_step(loss_fn, weight, x, y, tile)
        tile_step(loss_fn, copy, x, y, resumed)
    assert torch.equal(weight, copy)


def test_states_are_allocated_once_and_have_the_layout_of_the_weight() -> None:
    weight = nn.Parameter(torch.randn(CLASSES, FEATURES, dtype=torch.bfloat16))
    tile = TileAdam(weight)
    before = {name: x.data_ptr() for name, x in tile.state[weight].items()}
    for _ in range(300):
        tile(slice(0, 3), torch.ones(3, FEATURES))
    after = {name: x.data_ptr() for name, x in tile.state[weight].items()}
    assert before == after
    state = tile.state[weight]
    assert state["exp_avg"].shape == weight.shape
    assert state["exp_avg"].dtype == torch.bfloat16
    # Each row counts its steps, to more than bfloat16 can count to.
    tile.load_state_dict(tile.state_dict())
    assert tile.state[weight]["step"][:, 0].tolist() == [300] * 3 + [0] * (CLASSES - 3)


def test_accumulation_is_refused() -> None:
    loss_fn, weight = loss_of(True), nn.Parameter(torch.randn(CLASSES, FEATURES))
    tile, x, y = TileSGD(weight, 1.0), torch.randn(9, FEATURES), torch.randint(CLASSES, (9,))
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    with pytest.raises(RuntimeError, match=r"set weight\.grad to None"):
        tile_step(loss_fn, weight, x, y, tile)
    with pytest.raises(RuntimeError, match="would be lost"):
        tile.step()
    assert torch.equal(weight, before)
    weight.grad = None
    both = [loss_fn.linear(x, weight, y, logit_bytes=0, on_weight_grad=tile) for _ in range(2)]
    both[0].backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        both[1].backward()


@pytest.mark.parametrize("cls", [TileSGD, TileAdagrad, TileAdam])
def test_a_second_backward_before_a_step_is_refused(cls: type[TileOptimizer]) -> None:
    """Each backward pass would be a step, but users of accumulation expect a part of a step."""
    loss_fn, weight = loss_of(True), nn.Parameter(torch.randn(CLASSES, FEATURES))
    tile, x, y = cls(weight, 0.1), torch.randn(9, FEATURES), torch.randint(CLASSES, (9,))

    def backward() -> None:
        loss_fn.linear(x, weight, y, logit_bytes=0, on_weight_grad=tile).backward()

    backward()
    after_one = weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"Call step\(\) after each backward; to accumulate"):
        backward()
    assert torch.equal(weight, after_one)
    tile.step()
    backward()
    assert not torch.equal(weight, after_one)


def test_a_gradient_scaler_is_refused() -> None:
    loss_fn, weight = loss_of(True), nn.Parameter(torch.randn(CLASSES, FEATURES))
    tile, scaler = TileSGD(weight, 1e-6), torch.amp.GradScaler("cpu")
    x, y = torch.randn(9, FEATURES), torch.randint(CLASSES, (9,))
    loss = loss_fn.linear(x, weight, y, logit_bytes=0, on_weight_grad=tile)
    scaler.scale(loss).backward()
    with pytest.raises(RuntimeError, match="use bfloat16, which needs no scaler"):
        scaler.step(tile)


def test_clipping_sees_only_the_other_gradients() -> None:
    head = hace.nn.HierarchicalClassifier(FEATURES, TREE, fused=True)
    head.on_weight_grad = TileSGD(head.linear.weight, 0.1)
    head(torch.randn(9, FEATURES), torch.randint(CLASSES, (9,))).loss.backward()
    norm = head.linear.bias.grad.norm()
    torch.testing.assert_close(nn.utils.clip_grad_norm_(head.parameters(), 1.0), norm)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: TileSGD(w, -1.0), "lr must be at least 0, got -1.0"),
        (lambda w: TileSGD(w, nesterov=True), "nesterov needs"),
        (lambda w: TileAdam(w, betas=(0.9, 1.0)), "below 1"),
        (lambda w: TileAdam(w, betas=(-0.1, 0.9)), "betas must be at least 0"),
        (lambda w: TileAdagrad(w, eps=float("nan")), "eps must be at least 0"),
        (lambda w: TileAdam(w[0].detach()), r"must be \(C, F\)"),
    ],
)
def test_options_are_checked(make: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(nn.Parameter(torch.randn(CLASSES, FEATURES)))


def test_a_state_of_another_size_is_refused() -> None:
    large, small = (TileAdagrad(nn.Parameter(torch.randn(n, FEATURES))) for n in (CLASSES, 3))
    with pytest.raises(ValueError, match="the state sum must be"):
        small.load_state_dict(large.state_dict())
    with pytest.raises(ValueError, match="no closure"):
        small.step(lambda: 0)
