"""What the micro-benchmarks share: every backend that runs here, a few shapes, and the rounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hace

from . import trees
from .cases import decimal
from .peers import Step
from .problem import Problem

__all__ = ["backends", "problem_of", "run", "shapes"]

# (C, B): a small call, a typical one, a large one.
SHAPES = [(1_000, 16), (10_000, 256), (100_000, 32)]

shapes = pytest.mark.parametrize(("classes", "rows"), SHAPES)
backends = pytest.mark.parametrize(
    "backend", [name for name, backend in hace.backends().items() if backend.available]
)


def problem_of(classes: int, rows: int, backend: str) -> Problem:
    """Hard targets in float32 on the decimal tree, where the backend runs."""
    on_gpu = backend in ("triton", "cuda") and torch.cuda.is_available()
    return Problem(trees.build(decimal(classes)), rows, device="cuda" if on_gpu else "cpu")


def run(benchmark: Any, op: str, problem: Problem, backend: str, step: Step) -> None:
    """Times a step among those of its op and shape; skips what the backend does not do."""
    try:
        step()
    except hace.BackendError as error:
        pytest.skip(str(error))
    benchmark.group = f"{op}, C = {problem.classes:,}, B = {problem.rows:,}"
    benchmark.extra_info.update(backend=backend, classes=problem.classes, rows=problem.rows)
    if problem.device == "cpu":
        timed = step
    else:

        def timed() -> None:
            step()
            torch.cuda.synchronize()

    rounds = 10 if backend == "reference" else 30
    benchmark.pedantic(timed, rounds=rounds, warmup_rounds=2)
