"""Kernels flush subnormal numbers to 0 while they run, and callers do not notice it."""

from __future__ import annotations

import pytest
import torch

import hace
from hace_kernels import backends

pytestmark = pytest.mark.skipif(not backends()["cpu"].available, reason="the cpu backend is needed")

TREE = hace.Hierarchy.from_paths([f"{i % 4}/{i % 8}/{i}" for i in range(40)])


def test_the_caller_keeps_subnormal_numbers() -> None:
    """On every thread."""
    rows = 4096
    logits = torch.randn(rows, 40, requires_grad=True)
    for smoothing in (0.0, 0.1):
        loss = hace.HACELoss(TREE, label_smoothing=smoothing)
        loss(logits, torch.arange(rows) % 40).backward()
    tiny = torch.full((1 << 20,), 1e-40)
    assert torch.all(tiny * 0.5 > 0)


def test_subnormal_halves_are_numbers() -> None:
    """float16 has few exponents, and its subnormal numbers are ordinary float32 numbers."""
    target = torch.arange(8)
    logits = torch.zeros(8, 40, dtype=torch.float16)
    logits[:, ::3] = 2.0**-24
    logits[:, 1::3] = -3 * 2.0**-20
    logits.requires_grad_()
    loss = hace.HACELoss(TREE, reduction="sum")
    exact = logits.detach().double().requires_grad_()
    value, expected = loss(logits, target), loss(exact, target)
    factor = 2.0**-12  # the gradient becomes subnormal
    (value * factor).backward()
    (expected * factor).backward()
    assert logits.grad is not None
    assert exact.grad is not None
    assert abs(value.item() - expected.item()) < 2e-7 * expected.item()
    rounding = 2.0**-25 + 1e-6 * exact.grad.abs()
    assert torch.all((logits.grad.double() - exact.grad).abs() <= rounding)
    assert logits.grad.count_nonzero() == 320
