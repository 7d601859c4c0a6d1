"""Forward and backward of `HACELoss` beside its peers, on the same logits, in one run.

The trees have ten children a node, so that C = 10^k classes are k levels below their root.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import hace

from .peers import Loss, dense_hace, dense_hace_bytes

# (C, B). Below about 4 M logits a call is more Python than kernel.
SHAPES = [
    *((1_000, b) for b in (1, 16, 256, 4_096, 16_384)),
    *((10_000, b) for b in (1, 16, 256, 1_600)),
    *((100_000, b) for b in (1, 16, 48, 256)),
    *((1_000_000, b) for b in (1, 4, 16)),
]
DENSE_BYTES = 2 << 30

shapes = pytest.mark.parametrize(("num_classes", "rows"), SHAPES)


@cache
def tree_of(num_classes: int, shuffled: bool) -> hace.Hierarchy:
    """The decimal tree over the classes, whose columns are in depth-first order or shuffled."""
    parents, level = [-1], [0]
    while len(level) < num_classes:
        first = len(parents)
        parents += [node for node in level for _ in range(10)]
        level = list(range(first, len(parents)))
    leaves = torch.tensor(level)
    if shuffled:
        leaves = leaves[torch.randperm(num_classes, generator=torch.Generator().manual_seed(0))]
    return hace.Hierarchy.from_parents(parents, classes=leaves)


def batch(num_classes: int, rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, num_classes, generator=generator).requires_grad_()
    return logits, torch.randint(num_classes, (rows,), generator=generator)


def time_training_step(benchmark: Any, loss: Loss, logits: Tensor, target: Tensor) -> None:
    def step() -> None:
        logits.grad = None
        loss(logits, target).backward()

    run(benchmark, step, logits)


def run(benchmark: Any, function: Callable[[], object], logits: Tensor) -> None:
    rows, num_classes = logits.shape
    benchmark.group = f"C = {num_classes:,}, B = {rows:,}"
    benchmark.extra_info.update(num_classes=num_classes, rows=rows)
    benchmark.pedantic(function, rounds=30 if logits.numel() < 1 << 24 else 12, warmup_rounds=3)


@shapes
def test_clone(benchmark: Any, num_classes: int, rows: int) -> None:
    logits, _ = batch(num_classes, rows)
    run(benchmark, lambda: logits.detach().clone(), logits)


@shapes
def test_cross_entropy(benchmark: Any, num_classes: int, rows: int) -> None:
    time_training_step(benchmark, F.cross_entropy, *batch(num_classes, rows))


@shapes
def test_hace(benchmark: Any, num_classes: int, rows: int) -> None:
    loss = hace.HACELoss(tree_of(num_classes, shuffled=False))
    time_training_step(benchmark, loss, *batch(num_classes, rows))


@shapes
def test_hace_shuffled(benchmark: Any, num_classes: int, rows: int) -> None:
    loss = hace.HACELoss(tree_of(num_classes, shuffled=True))
    time_training_step(benchmark, loss, *batch(num_classes, rows))


@pytest.mark.parametrize(("num_classes", "rows"), [(1_000, 256), (1_000, 4_096), (10_000, 256)])
def test_dense(benchmark: Any, num_classes: int, rows: int) -> None:
    tree = tree_of(num_classes, shuffled=False)
    assert dense_hace_bytes(tree) < DENSE_BYTES
    dense = dense_hace(tree, 0.7)
    logits, target = batch(num_classes, rows)
    torch.testing.assert_close(
        dense(logits, target), hace.HACELoss(tree, eps=1e-6)(logits, target), rtol=1e-4, atol=0
    )
    benchmark.group = f"C = {num_classes:,}, B = {rows:,}"
    benchmark.extra_info.update(num_classes=num_classes, rows=rows)

    def step() -> None:
        logits.grad = None
        dense(logits, target).backward()

    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
