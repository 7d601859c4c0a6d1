"""Forward and backward of the two ops that losses run on, for each backend."""

from __future__ import annotations

from typing import Any

import hace_kernels
from hace.options import LossOptions
from hace.weights import HACEWeights

from .micro import backends, problem_of, run, shapes
from .peers import training_step
from .problem import DILUTION


@shapes
@backends
def test_path_log_loss(benchmark: Any, classes: int, rows: int, backend: str) -> None:
    problem = problem_of(classes, rows, backend)
    table = problem.tree.path_table(HACEWeights(DILUTION), device=problem.device)
    step = training_step(
        lambda logits, target: hace_kernels.path_log_loss(logits, target, table, backend=backend),
        *problem.batch(),
    )
    run(benchmark, "path_log_loss", problem, backend, step)


@shapes
@backends
def test_tree_log_loss(benchmark: Any, classes: int, rows: int, backend: str) -> None:
    problem = problem_of(classes, rows, backend)
    options = LossOptions(label_smoothing=0.1)
    table = problem.tree.target_table(HACEWeights(DILUTION), options, device=problem.device)
    tree = problem.tree.tree_table(device=problem.device)
    step = training_step(
        lambda logits, target: hace_kernels.tree_log_loss(
            logits, target, tree, table, backend=backend
        ),
        *problem.batch(),
    )
    run(benchmark, "tree_log_loss", problem, backend, step)
