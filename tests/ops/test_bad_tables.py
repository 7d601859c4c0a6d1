"""Tables that are none, and tensors elsewhere: refused before anything is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trees
from cases import in_column_order, interval_case
from conftest import Backend
from tree_cases import TreeCase

from hace_kernels import path_log_loss, tree_log_prob


@pytest.mark.on("cpu")
@pytest.mark.parametrize("value", [-1, 6, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("what", ["order", "position"])
def test_columns_out_of_range(backend: Backend, what: str, value: int) -> None:
    case = in_column_order(interval_case(6, [[(1, 2, 0.5), (0, 3, 0.5)]]), np.arange(6)[::-1])
    bad = getattr(case.table, what).clone()
    bad[3] = value
    table = case.table._replace(**{what: bad})
    with pytest.raises(RuntimeError, match="order and position must be permutations of the 6"):
        path_log_loss(case.logits(2, torch.float32), torch.zeros(2, dtype=torch.long), table)


@pytest.mark.on("cpu")
def test_a_root_below_something(backend: Backend) -> None:
    tree = TreeCase(trees.balanced([2, 2])).table
    parent = tree.parent.clone()
    parent[-1] = parent[0]
    with pytest.raises(RuntimeError, match="no TreeTable"):
        tree_log_prob(torch.zeros(1, 4), tree._replace(parent=parent))


@pytest.mark.parity
def test_targets_elsewhere(backend: Backend) -> None:
    case = interval_case(6, [[(1, 2, 0.5), (0, 3, 0.5)]])
    logits, target = case.logits(2, torch.float32), torch.zeros(2, dtype=torch.long)
    logits, table = logits.to(backend.device), case.table.to(backend.device)
    with pytest.raises(ValueError, match=r"target must be on the device of the rows.*on meta"):
        path_log_loss(logits, target.to("meta"), table, backend=backend.name)
    with pytest.raises(ValueError, match=r"table must be on the device of the rows.*on meta"):
        path_log_loss(logits, target.to(backend.device), table.to("meta"), backend=backend.name)
