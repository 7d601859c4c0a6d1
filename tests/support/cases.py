"""Inputs of `path_log_loss` with their meaning for the oracle, and the call-and-compare step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import torch
import trees
from backend import Backend
from rows import on_some_rows

from hace_kernels.ops import path_log_loss
from hace_kernels.path_table import PathTable

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
REDUCTIONS = ["mean", "sum", "none"]
SPACES = ["classes", "nodes"]


@dataclass(frozen=True)
class Case:
    """A path table, and the same paths as matrices for the oracle.

    `reach` (V, C) says which classes are at or below each node. `weights` (T, V) has each target's
    weight at each node.
    """

    table: PathTable
    reach: np.ndarray
    weights: np.ndarray

    @property
    def num_classes(self) -> int:
        return self.table.num_classes

    @property
    def num_targets(self) -> int:
        return len(self.weights)

    def logits(self, rows: int, dtype: torch.dtype, scale: float = 2.0) -> torch.Tensor:
        return (scale * torch.randn(rows, self.num_classes)).to(dtype)

    def targets(self, rows: int) -> torch.Tensor:
        return torch.randint(self.num_targets, (rows,))


def tree_case(
    tree: trees.Tree,
    dilution: float = 0.7,
    nodes: Sequence[int] | np.ndarray | None = None,
    keep_full: bool = False,
) -> Case:
    """HACE on a tree; the targets are its classes, or the given nodes."""
    targets = tree.classes if nodes is None else np.asarray(nodes)
    weights = oracle.dilution_weights(tree, dilution)[targets]
    return Case(trees.path_table(tree, weights, targets, keep_full), tree.reach(), weights)


def interval_case(num_classes: int, paths: Sequence[Sequence[tuple[int, int, float]]]) -> Case:
    """Any nested intervals (start, stop, weight) of columns, innermost first."""
    intervals = [(row, *entry) for row, path in enumerate(paths) for entry in path]
    reach = np.zeros((len(intervals), num_classes), dtype=bool)
    weights = np.zeros((len(paths), len(intervals)))
    for index, (row, start, stop, weight) in enumerate(intervals):
        reach[index, start:stop] = True
        weights[row, index] = weight
    return Case(trees.interval_table(paths, num_classes), reach, weights)


def in_column_order(case: Case, order: np.ndarray) -> Case:
    """The same intervals, but of positions, where position i is column `order[i]` of the logits."""
    reach = np.zeros_like(case.reach)
    reach[:, order] = case.reach
    table = case.table._replace(
        order=torch.tensor(order, dtype=torch.int32),
        position=torch.tensor(np.argsort(order), dtype=torch.int32),
    )
    return Case(table, reach, case.weights)


def evaluate(
    loss_fn: Callable[..., torch.Tensor], input: torch.Tensor, target: Any, incoming: Any = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the gradient of `(incoming * loss).sum()`; the logits keep their strides."""
    x = input.detach().requires_grad_()
    loss = loss_fn(x, target)
    factor = torch.as_tensor(incoming, dtype=loss.dtype, device=loss.device).expand(loss.shape)
    (grad,) = torch.autograd.grad(loss, x, factor)
    return loss.detach(), grad


def call(
    case: Case,
    logits: torch.Tensor,
    target: torch.Tensor,
    backend: Backend,
    *,
    target_weight: torch.Tensor | None = None,
    incoming: Any = 1.0,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient (see `evaluate`) of the op."""
    device = backend.device

    def loss_fn(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return path_log_loss(
            logits,
            target,
            case.table.to(device),
            target_weight=None if target_weight is None else target_weight.to(device),
            backend=backend.name,
            **options,
        )

    return evaluate(loss_fn, logits.to(device), target.to(device), incoming)


def expected(
    case: Case,
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    reduction: str = "mean",
    target_weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    eps: float = 0.0,
    incoming: Any = 1.0,
) -> oracle.Answer:
    labels = target.cpu().numpy()
    kept = labels != ignore_index
    scale = np.ones(case.num_targets) if target_weight is None else oracle.to_real(target_weight)
    mass = np.zeros((len(labels), len(case.reach)), dtype=oracle.REAL)
    mass[kept] = (case.weights * scale[:, None])[labels[kept]]
    rows = oracle.node_log_loss(logits, case.reach, mass, eps)
    return oracle.reduce(rows, reduction, float(scale[labels[kept]].sum()), incoming)


@on_some_rows
def check(
    case: Case,
    logits: torch.Tensor,
    target: torch.Tensor,
    backend: Backend,
    *,
    roundings: float = 16,
    **options: Any,
) -> None:
    """Compares the op's loss and gradient with the oracle, and checks that logits are unchanged."""
    options.setdefault("reduction", "sum")
    before = logits.clone()
    loss, grad = call(case, logits, target, backend, **options)
    torch.testing.assert_close(logits, before, rtol=0, atol=0, equal_nan=True)
    assert grad.dtype == logits.dtype
    answer = expected(case, logits, target, **options)
    oracle.assert_loss_close(loss, answer, logits.dtype, roundings)
    # A gradient that the forward pass stored is rounded again when the incoming one multiplies it.
    plain = isinstance(options.get("incoming", 1.0), float) and options.get("incoming", 1.0) == 1.0
    oracle.assert_grad_close(grad, answer, roundings=roundings, output_roundings=1 if plain else 2)
