"""Forward and backward of the two ops that losses run on, for each backend."""

from __future__ import annotations

from functools import partial
from typing import Any

import hace_kernels
from hace.options import TargetOptions
from hace.tables import Tables
from hace.weights import HACEWeights

from .micro import backends, problem_of, run, shapes
from .peers import training_step
from .problem import DILUTION


@shapes
@backends
def test_path_log_loss(benchmark: Any, classes: int, rows: int, backend: str) -> None:
    problem = problem_of(classes, rows, backend)
    table = Tables.of(problem.tree).paths(HACEWeights(DILUTION), device=problem.device)
    step = training_step(
        partial(hace_kernels.path_log_loss, table=table, backend=backend),
        *problem.batch(),
    )
    run(benchmark, "path_log_loss", problem, backend, step)


@shapes
@backends
def test_tree_log_loss(benchmark: Any, classes: int, rows: int, backend: str) -> None:
    problem = problem_of(classes, rows, backend)
    tables, options = Tables.of(problem.tree), TargetOptions(label_smoothing=0.1)
    table = tables.targets(HACEWeights(DILUTION), "classes", options, device=problem.device).table
    tree = tables.label_nodes(device=problem.device)
    step = training_step(
        lambda logits, target: hace_kernels.tree_log_loss(
            logits, target, tree, table, backend=backend
        ),
        *problem.batch(),
    )
    run(benchmark, "tree_log_loss", problem, backend, step)
