"""More than 2^31 logits, so that offsets need 64 bits. `make test-large` runs this."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import expected, interval_case
from oracle import assert_grad_close, assert_loss_close

from hace_kernels.backends import backends
from hace_kernels.ops import path_log_loss

ROWS, WIDTH = 65_600, 32_768
NEEDED = 12e9  # logits 4.3 GB, gradient 4.3 GB and scratch


def available_memory() -> int:
    """The available memory in bytes, including what caches would give back."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/meminfo names no MemAvailable")


@pytest.mark.large
@pytest.mark.skipif(not backends()["cpu"].available, reason=backends()["cpu"].reason)
def test_more_than_two_to_the_31_logits() -> None:
    """Ordinary rows are at both ends and where the offset passes 2^31, with zeros between them."""
    if available_memory() < NEEDED:
        pytest.skip(
            f"needs {NEEDED / 1e9:.0f} GB of free memory (logits 4.3, gradient 4.3, scratch) and "
            f"found {available_memory() / 1e9:.1f}"
        )
    assert ROWS * WIDTH > 2**31
    case = interval_case(
        WIDTH, [[(700, 701, 0.5), (512, 1024, 0.5)], [(WIDTH - 1, WIDTH, 0.7), (9, WIDTH, 0.3)]]
    )
    crossing = 2**31 // WIDTH
    rows = torch.tensor([0, 1, crossing - 1, crossing, crossing + 1, ROWS - 2, ROWS - 1, 30_000])
    logits = torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16)
    logits[rows[:-1]] = (2 * torch.randn(len(rows) - 1, WIDTH)).bfloat16()
    target = torch.arange(ROWS) % 2
    logits.requires_grad_()
    loss = path_log_loss(logits, target, case.table, reduction="none", backend="cpu")
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    answer = expected(case, logits[rows], target[rows], reduction="none")
    assert_loss_close(loss[rows].detach(), answer, torch.bfloat16, roundings=32)
    assert_grad_close(grad[rows], answer, roundings=32)
    plain = torch.ones(ROWS, dtype=torch.bool)
    plain[rows[:-1]] = False
    for label in (0, 1):
        same = loss.detach()[plain & (target == label)]
        assert (same == same[0]).all(), "equal rows have different losses"
