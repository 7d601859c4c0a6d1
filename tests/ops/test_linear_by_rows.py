"""The loss of a linear layer, computed some rows at a time, is the loss of its logits."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
import torch
import trees
from torch.nn.functional import linear

from hace_kernels.linear import by_rows, linear_path_log_loss, linear_with_log_prob
from hace_kernels.ops import path_log_loss

ROWS, AT_ONCE = 13, 4


@pytest.fixture
def case() -> cases.Case:
    return cases.tree_case(trees.random_tree(np.random.default_rng(0), 40, roots=3, inner=0.3))


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that were computed at once, with a limit that makes them small."""
    seen: list[int] = []
    apply = by_rows._Rows.apply

    def noted(*args: Any) -> Any:
        seen.append(args[-1])
        return apply(*args)

    monkeypatch.setattr(by_rows._Rows, "apply", noted)
    monkeypatch.setattr(by_rows, "MIN_ROWS", 2)
    monkeypatch.setattr(by_rows, "ROW_STEP", 1)
    return seen


def layer(case: cases.Case, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    shapes = [(ROWS, 6), (case.num_classes, 6), (case.num_classes,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def budget(case: cases.Case, dtype: torch.dtype = torch.float64) -> int:
    return AT_ONCE * case.num_classes * dtype.itemsize


def by_some_rows(
    parts: list[torch.Tensor], target: torch.Tensor, case: cases.Case, **options: Any
) -> torch.Tensor:
    options["logit_bytes"] = budget(case, parts[1].dtype)
    return linear_path_log_loss(*parts[:2], target, case.table, bias=parts[2], **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"reduction": "sum"}, {"eps": 1e-3}, {"entropy": 0.3}, {"backend": "reference"}],
    ids=str,
)
def test_the_same_as_of_whole_logits(
    case: cases.Case, dtype: torch.dtype, options: dict[str, Any], sizes: list[int]
) -> None:
    parts, target = layer(case, dtype), case.targets(ROWS)
    target[2] = target[7] = -100
    options = {"target_weight": torch.rand(case.num_targets), **options}
    found = by_some_rows(parts, target, case, **options)
    assert sizes == [AT_ONCE]
    wanted = path_log_loss(linear(*parts), target, case.table, **options)
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(3 * loss, parts) for loss in (found, wanted)]
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1)], ids=str)
def test_frozen_parts(case: cases.Case, needed: tuple[int, ...], sizes: list[int]) -> None:
    parts, target = layer(case), case.targets(ROWS)
    for index, part in enumerate(parts):
        part.requires_grad_(index in needed)
    asked = [parts[index] for index in needed]
    found = torch.autograd.grad(by_some_rows(parts, target, case), asked)
    wanted = torch.autograd.grad(path_log_loss(linear(*parts), target, case.table), asked)
    assert sizes
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_a_retained_graph_and_added_gradients(case: cases.Case) -> None:
    parts, target = layer(case), case.targets(ROWS)
    loss = by_some_rows(parts, target, case)
    once = [grad.clone() for grad in torch.autograd.grad(loss, parts, retain_graph=True)]
    for again in range(2):
        (loss if again else 2 * loss).backward(retain_graph=True)
    for part, grad in zip(parts, once, strict=True):
        torch.testing.assert_close(part.grad, 3 * grad)


def test_gradients_of_log_probabilities(case: cases.Case, sizes: list[int]) -> None:
    parts, target = layer(case), case.targets(ROWS)
    x, weight, bias = parts
    results = []
    for logit_bytes in (budget(case), 0):
        loss, log_prob = linear_with_log_prob(
            x, weight, target, case.table, bias=bias, logit_bytes=logit_bytes
        )
        total = loss + log_prob @ torch.arange(float(ROWS), dtype=torch.float64)
        results.append([loss, log_prob, *torch.autograd.grad(total, parts)])
    assert sizes == [AT_ONCE]
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_what_goes_by_tiles_of_classes(case: cases.Case, sizes: list[int]) -> None:
    parts, target = layer(case), case.targets(ROWS)
    by_some_rows(parts, target, case, reduction="none")
    by_some_rows(parts, target, case, on_weight_grad=lambda rows, grad: None)
    with torch.no_grad():
        by_some_rows(parts, target, case)
    half = [part.detach().bfloat16().requires_grad_() for part in parts]
    by_some_rows(half, target, case)
    with torch.autocast("cpu", torch.bfloat16):
        by_some_rows([part.detach().float().requires_grad_() for part in parts], target, case)
    permuted = cases.in_column_order(case, np.random.default_rng(1).permutation(case.num_classes))
    by_some_rows(parts, target, permuted)
    x, weight, bias = parts
    too_little = case.num_classes * 8 * by_rows.MIN_ROWS - 1
    linear_path_log_loss(x, weight, target, case.table, bias=bias, logit_bytes=too_little)
    assert sizes == []


def test_batches_without_rows_that_count(case: cases.Case) -> None:
    parts = layer(case)
    loss = by_some_rows(parts, torch.full((ROWS,), -100), case)
    assert loss.isnan()
    target = case.targets(ROWS)
    target[1:] = -100  # one row counts, which is computed at once
    found = torch.autograd.grad(by_some_rows(parts, target, case), parts)
    wanted = torch.autograd.grad(path_log_loss(linear(*parts), target, case.table), parts)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_a_second_derivative_is_refused(case: cases.Case) -> None:
    parts, target = layer(case), case.targets(ROWS)
    with pytest.raises(RuntimeError, match="logit_bytes"):
        torch.autograd.grad(by_some_rows(parts, target, case), parts, create_graph=True)
