"""Forward and backward of `TreeLinear` beside the `nn.Linear` that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hace.nn import TreeLinear

from .micro import problem_of, run, shapes

FEATURES = 128


@shapes
@pytest.mark.parametrize("layer", ["TreeLinear", "Linear"])
def test_layer(benchmark: Any, layer: str, classes: int, rows: int) -> None:
    problem = problem_of(classes, rows, "cpu")
    tree_linear = TreeLinear(FEATURES, problem.tree)
    module: nn.Module = tree_linear if layer == "TreeLinear" else tree_linear.to_linear()
    inputs = torch.randn(rows, FEATURES)
    incoming = torch.randn(rows, classes)

    def step() -> None:
        module.zero_grad()
        module(inputs).backward(incoming)

    benchmark.extra_info.update(parameters=sum(p.numel() for p in module.parameters()))
    run(benchmark, f"{FEATURES} features to classes", problem, layer, step)
