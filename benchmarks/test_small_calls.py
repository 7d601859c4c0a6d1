"""What a small call costs beside its kernels: one row of a thousand columns, layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import hace
import hace_kernels
from hace.tables import Tables
from hace.weights import HACEWeights

from .micro import problem_of
from .problem import DILUTION

LAYERS = ["cross_entropy", "raw op", "op", "module"]


@pytest.mark.parametrize("layer", LAYERS)
def test_small_call(benchmark: Any, layer: str) -> None:
    problem = problem_of(1_000, 1, "cpu")
    table = Tables.of(problem.tree).paths(HACEWeights(DILUTION))
    module = hace.HACELoss(problem.tree, DILUTION)
    logits, target = problem.batch()
    assert isinstance(target, Tensor)
    logits = logits.detach().requires_grad_()

    def raw_op() -> None:
        torch.ops.hace_kernels.path_log_loss(
            logits.detach(), target, table.tensors, table.max_entries, None, 0.0, -100, 1, 0.0, True
        )

    def loss() -> Tensor:
        if layer == "cross_entropy":
            return functional.cross_entropy(logits, target)
        if layer == "op":
            return hace_kernels.path_log_loss(logits, target, table)
        return module(logits, target)

    def step() -> None:
        logits.grad = None
        loss().backward()

    benchmark.group = "a small call, C = 1,000, B = 1"
    benchmark.extra_info.update(backend=layer, classes=1_000, rows=1)
    timed = raw_op if layer == "raw op" else step
    benchmark.pedantic(timed, rounds=50, iterations=200, warmup_rounds=5)
