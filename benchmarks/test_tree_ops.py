"""Forward and backward of the ops over a whole tree that are not losses, for each backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hace_kernels
from hace.tables import Tables

from .micro import backends, problem_of, run, shapes

OPS = (hace_kernels.tree_log_prob, hace_kernels.tree_sum_up, hace_kernels.tree_sum_down)


@shapes
@backends
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_tree_op(
    benchmark: Any, op: Callable[..., torch.Tensor], classes: int, rows: int, backend: str
) -> None:
    problem = problem_of(classes, rows, backend)
    tree = Tables.of(problem.tree).nodes(device=problem.device)
    widths = tree.num_classes, tree.num_nodes
    before, after = reversed(widths) if op is hace_kernels.tree_sum_down else widths
    values = torch.randn(rows, before, device=problem.device, requires_grad=True)
    incoming = torch.randn(rows, after, device=problem.device)

    def step() -> None:
        values.grad = None
        op(values, tree, backend=backend).backward(incoming)

    run(benchmark, op.__name__, problem, backend, step)
