"""Invalid tables, and tensors on other devices, are refused before anything is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trees
from cases import in_column_order, interval_case
from conftest import Backend
from tree_cases import TreeCase

from hace_kernels import native, path_log_loss, tree_log_loss, tree_log_prob

# Only the CPU's kernels check tables: on another device, a check would have to wait for the device.
needs_native = pytest.mark.skipif(native.load_error is not None, reason="needs the C++ kernels")


@needs_native
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("columns", [6, 140_000])
@pytest.mark.parametrize("value", [-1, None, 2**31 - 1, -(2**31)])
def test_columns_out_of_range(value: int | None, columns: int, rows: int) -> None:
    """Rows that are split over threads check the columns that they gather, too."""
    paths = [[(1, 2, 0.5), (0, 3, 0.5)]]
    case = in_column_order(interval_case(columns, paths), np.arange(columns)[::-1].copy())
    order = case.table.order.clone()
    order[2] = columns if value is None else value
    table = case.table._replace(order=order)
    with pytest.raises(RuntimeError, match="path table's order"):
        path_log_loss(case.logits(rows, torch.float32), torch.zeros(rows, dtype=torch.long), table)


@needs_native
@pytest.mark.parametrize("columns", [6, 400, 70_000])
def test_positions_that_are_no_permutation(columns: int) -> None:
    """Positions are compared and never used as addresses, so only the loss is wrong."""
    paths = [[(1, 2, 0.5), (0, columns // 2, 0.5)]]
    case = in_column_order(interval_case(columns, paths), np.random.permutation(columns))
    target = torch.zeros(2, dtype=torch.long)
    for value in (-1, 0, 1, columns, 2**31 - 1, -(2**31)):
        table = case.table._replace(position=torch.full_like(case.table.position, value))
        logits = case.logits(2, torch.float32).requires_grad_()
        loss = path_log_loss(logits, target, table)
        torch.autograd.grad(loss, logits)


@needs_native
def test_a_root_below_something() -> None:
    tree = TreeCase(trees.balanced([2, 2])).table
    parent = tree.parent.clone()
    parent[-1] = parent[0]
    with pytest.raises(RuntimeError, match="those of a TreeTable"):
        tree_log_prob(torch.zeros(1, 4), tree._replace(parent=parent))


@needs_native
@pytest.mark.parametrize("rows", [1, 40], ids=["row by row", "in blocks"])
@pytest.mark.parametrize("place", [0, 5, 20, 39, 40, 41])  # columns, inner places
@pytest.mark.parametrize("kind", ["index", "smoothing", "soft labels", "probabilities", "pairs"])
def test_parents_out_of_range(place: int, kind: str, rows: int) -> None:
    case = TreeCase(trees.balanced([2, 20]))
    options: dict[str, Any] = {
        "smoothing": {"label_smoothing": 0.1},
        "soft labels": {"soft_label_beta": 3.0},
    }
    table = case.target_table(**options.get(kind, {}))
    index = torch.arange(rows) % 40
    targets: dict[str, Any] = {
        "probabilities": torch.full((rows, 40), 1 / 40),
        "pairs": (index[:, None], torch.ones(rows, 1)),
    }
    target = targets.get(kind, index)
    logits = case.logits(rows, torch.float32)
    for value in (-(2**31), -1, 0, 39, 43, 2**31 - 1):
        parent = case.table.parent.clone()
        parent[place] = value
        with pytest.raises(RuntimeError, match="those of a TreeTable"):
            tree_log_loss(logits, target, case.table._replace(parent=parent), table)


@pytest.mark.parity
def test_targets_elsewhere(backend: Backend) -> None:
    case = interval_case(6, [[(1, 2, 0.5), (0, 3, 0.5)]])
    logits, target = case.logits(2, torch.float32), torch.zeros(2, dtype=torch.long)
    logits, table = logits.to(backend.device), case.table.to(backend.device)
    with pytest.raises(ValueError, match=r"target must be on the device of the rows.*on meta"):
        path_log_loss(logits, target.to("meta"), table, backend=backend.name)
    with pytest.raises(ValueError, match=r"table must be on the device of the rows.*on meta"):
        path_log_loss(logits, target.to(backend.device), table.to("meta"), backend=backend.name)
