"""Bound losses handle the usual calls and leave all others to the general path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import hace
from hace.options import TargetOptions
from hace.tables import Tables
from hace.weights import HACEWeights
from hace_kernels import BoundPathLogLoss, BoundTreeLogLoss, native, path_log_loss, tree_log_loss
from hace_kernels.ops.path_log_loss import path_log_loss_rest
from hace_kernels.ops.tree_log_loss import tree_log_loss_rest

pytestmark = pytest.mark.skipif(
    native.load_error is not None, reason="without kernels, no call is bound"
)

TREE = hace.Hierarchy.from_parents([5, 6, 5, 6, 6, 7, 7, -1])
TABLE = Tables.of(TREE).paths(HACEWeights(0.7))
LOGITS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 4, -100, 2])


def bound(reduction: str = "mean", backend: str = "auto") -> BoundPathLogLoss:
    return BoundPathLogLoss(
        TABLE, ignore_index=-100, reduction=reduction, entropy=0.0, eps=0.0, backend=backend
    )


#: Probabilities, and a few weighted targets per row.
MASS = torch.rand(4, 5, generator=torch.Generator().manual_seed(1))
PAIR = torch.stack([TARGET, TARGET.flip(0)], 1), MASS[:, :2].contiguous()


def bound_tree(**options: Any) -> tuple[BoundTreeLogLoss, tuple[Any, ...]]:
    tables = Tables.of(TREE)
    chosen = TargetOptions(**options)
    table = tables.targets(HACEWeights(0.7), "classes", chosen).table_for(None, of_pairs=False)
    call = tables.label_nodes("classes"), table
    bound = BoundTreeLogLoss(*call, ignore_index=-100, reduction="mean", eps=0.0, backend="auto")
    return bound, call


def logits_of(like: Tensor = LOGITS) -> Tensor:
    return like.clone().requires_grad_()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_bound_calls_give_the_same_bits(reduction: str, dtype: torch.dtype) -> None:
    ours, theirs = logits_of(LOGITS.to(dtype)), logits_of(LOGITS.to(dtype))
    loss = bound(reduction)(ours, TARGET)
    expected = path_log_loss(theirs, TARGET, TABLE, reduction=reduction)
    assert loss is not None
    assert torch.equal(loss, expected)
    for _ in range(2):  # the second pass computes the gradient again
        (grad,) = torch.autograd.grad(loss.sum() * 3, ours, retain_graph=True)
        (expected_grad,) = torch.autograd.grad(expected.sum() * 3, theirs, retain_graph=True)
        assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("target", "options"),
    [
        (TARGET, {"label_smoothing": 0.1}),
        (TARGET, {"soft_label_beta": 3.0}),
        (MASS, {}),
        (PAIR, {}),
    ],
    ids=["smoothing", "soft labels", "probabilities", "pairs"],
)
def test_bound_calls_of_soft_targets(dtype: torch.dtype, target: Any, options: Any) -> None:
    if dtype == torch.float64 and isinstance(target, Tensor) and target.is_floating_point():
        target = target.double()
    call, tables = bound_tree(**options)
    ours, theirs = logits_of(LOGITS.to(dtype)), logits_of(LOGITS.to(dtype))
    loss = call(ours, target)
    expected = tree_log_loss(theirs, target, *tables)
    assert loss is not None
    assert torch.equal(loss, expected)
    (grad,) = torch.autograd.grad(loss * 3, ours)
    (expected_grad,) = torch.autograd.grad(expected * 3, theirs)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (MASS.double(), {}),  # not in the loss's dtype
        (MASS.clone().requires_grad_(), {}),
        (MASS.t().contiguous().t(), {}),
        (MASS[:, :4], {}),
        (MASS, {"soft_label_beta": 3.0}),
        (PAIR[:1], {}),
        ((PAIR[0].int(), PAIR[1]), {}),
        ((PAIR[0], PAIR[1][:, :1]), {}),
        ((PAIR[0], PAIR[1].clone().requires_grad_()), {}),
        ((PAIR[0], None), {}),
        (TARGET + 5, {"label_smoothing": 0.1}),
        (None, {}),
    ],
)
def test_other_soft_targets_are_left_alone(target: Any, options: Any) -> None:
    call, _ = bound_tree(**options)
    assert call(logits_of(), target) is None


def test_losses_bind_what_they_do_not_refuse() -> None:
    """ignore_index is accepted only with indices, whether the call is bound or not."""
    loss = hace.HACELoss(TREE, ignore_index=3)
    loss(logits_of(), TARGET.clamp(0))
    for target in (MASS, PAIR):
        with pytest.raises(ValueError, match="ignore_index"):
            loss(logits_of(), target)


def test_only_bound_arguments_are_taken() -> None:
    ops = torch.ops.hace_kernels
    bound = ops.path_log_loss_bind(*path_log_loss_rest(TABLE, None, 0.0, -100, "mean", 0.0))
    expected = path_log_loss(LOGITS, TARGET, TABLE)
    assert torch.equal(ops.path_log_loss_bound(LOGITS, TARGET, bound, False)[0], expected)
    _, of_tree = bound_tree()
    of_tree = ops.tree_log_loss_bind(*tree_log_loss_rest(*of_tree, -100, "mean", 0.0))
    for wrong in (of_tree, bound.clone(), torch.zeros_like(bound), bound[:8], LOGITS):
        with pytest.raises(RuntimeError, match="bound arguments are not those of this op"):
            ops.path_log_loss_bound(LOGITS, TARGET, wrong, False)


def test_bound_arguments_own_the_table() -> None:
    expected = path_log_loss(LOGITS, TARGET, TABLE)
    table, max_entries, *options = path_log_loss_rest(TABLE, None, 0.0, -100, "mean", 0.0)
    bound = torch.ops.hace_kernels.path_log_loss_bind(
        [tensor.clone() for tensor in table], max_entries, *options
    )
    reused = [torch.zeros_like(tensor) for tensor in table]  # would be where the clones were
    loss, _ = torch.ops.hace_kernels.path_log_loss_bound(LOGITS, TARGET, bound, False)
    assert torch.equal(loss, expected)
    assert not any(map(torch.count_nonzero, reused))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (LOGITS, TARGET),  # without a gradient
        (logits_of(torch.randn(5, 4)).t(), TARGET),  # strided
        (logits_of(torch.randn(4, 6)), TARGET),
        (logits_of(torch.randn(5)), TARGET[0]),
        (logits_of(), TARGET[:3]),
        (logits_of(), TARGET.to(torch.uint8)),
        (logits_of(), torch.stack([TARGET, TARGET], 1)[:, 0]),
        (logits_of(), TARGET + 5),
        (logits_of(), LOGITS.softmax(1)),
        (logits_of(), TARGET.to("meta")),
        (logits_of().to("meta"), TARGET.to("meta")),
        (logits_of().as_subclass(Subclass), TARGET),
        (logits_of(LOGITS.to_sparse()), TARGET),
        (logits_of(), None),
    ],
)
def test_other_calls_are_left_alone(logits: Tensor, target: Tensor) -> None:
    assert bound()(logits, target) is None


def test_modes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    call, logits = bound(), logits_of()
    with torch.no_grad():
        assert call(logits, TARGET) is None
    with torch.autograd.forward_ad.dual_level():
        assert call(logits, TARGET) is None
    seen = []
    torch.func.vmap(lambda x: seen.append(call(logits, TARGET)) or x)(LOGITS)
    assert seen == [None]
    assert call(logits, TARGET) is not None
    torch.jit.trace(
        lambda x: seen.append(call(x.requires_grad_(), TARGET)) or x * 2, LOGITS.clone()
    )
    assert seen == [None] * len(seen)
    monkeypatch.setenv("HACE_BACKEND", "reference")
    assert call(logits, TARGET) is None


def test_a_tensor_that_left_its_transform_is_unwrapped() -> None:
    leaked: list[Tensor] = []
    torch.func.grad(lambda x: leaked.append(x) or x.sum())(LOGITS)
    logits = logits_of()
    loss = hace.HACELoss(TREE)(logits + leaked[0], TARGET)
    loss.backward()
    theirs = logits_of()
    hace.HACELoss(TREE)(theirs + LOGITS, TARGET).backward()
    assert torch.equal(logits.grad, theirs.grad)
    assert hace.HACELoss(TREE)(leaked[0], TARGET) == hace.HACELoss(TREE)(LOGITS, TARGET)
