"""`BoundPathLogLoss` takes the calls that nearly all are, and leaves the others alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hace
from hace.tables import Tables
from hace.weights import HACEWeights
from hace_kernels import BoundPathLogLoss, native, path_log_loss

pytestmark = pytest.mark.skipif(
    native.load_error is not None, reason="without kernels no call is bound"
)

TREE = hace.Hierarchy.from_parents([5, 6, 5, 6, 6, 7, 7, -1])
TABLE = Tables.of(TREE).paths(HACEWeights(0.7))
LOGITS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 4, -100, 2])


def bound(reduction: str = "mean", backend: str = "auto") -> BoundPathLogLoss:
    return BoundPathLogLoss(
        TABLE, ignore_index=-100, reduction=reduction, entropy=0.0, eps=0.0, backend=backend
    )


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
    for _ in range(2):  # the second makes the gradient anew
        (grad,) = torch.autograd.grad(loss.sum() * 3, ours, retain_graph=True)
        (expected_grad,) = torch.autograd.grad(expected.sum() * 3, theirs, retain_graph=True)
        assert torch.equal(grad, expected_grad)


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
