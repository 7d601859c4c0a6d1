"""`path_log_loss` with columns in any order, at all widths around the sizes of vectors and groups.

Depending on their sizes, kernels find rings by the columns' positions or gather them
(csrc/cpu/path_plan.cpp). The paths here have rings of all sizes, whose logits are far below and far
above each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from backend import Backend
from cases import Case, call, check, in_column_order, interval_case

pytestmark = pytest.mark.parity

of_processors = pytest.mark.not_on(
    "cuda-emulated",
    "triton-interpreted",
    "gpu",
    reason="the widths are those of CPU vectors",
)

Order = Callable[[int, np.random.Generator], np.ndarray]

#: Number of entries per path.
MANY, FEW, ONE = (0, 1, 2, 3, 5, 12), (0, 1, 2, 3, 4, 2, 1), (1,)


def nearly_ordered(columns: int, rng: np.random.Generator) -> np.ndarray:
    """An order with a few columns far from their place, and the others in runs."""
    order = np.arange(columns)
    moved = rng.permutation(columns)[: max(2, columns // 20)]
    order[moved] = np.roll(order[moved], 1)
    return order


ORDERS: dict[str, Order | None] = {
    "identity": None,
    "reversed": lambda columns, rng: np.arange(columns)[::-1].copy(),
    "random": lambda columns, rng: rng.permutation(columns),
    "nearly ordered": nearly_ordered,
}


def in_order(case: Case, order: str, rng: np.random.Generator) -> Case:
    make = ORDERS[order]
    return case if make is None else in_column_order(case, make(case.num_classes, rng))


def nested(columns: int, depth: int, rng: np.random.Generator) -> list[tuple[int, int, float]]:
    """A path of at most `depth` nested intervals with random ends."""
    ends = np.sort(rng.choice(columns + 1, size=min(2 * depth, columns + 1), replace=False))
    depth = len(ends) // 2
    starts, stops = ends[:depth][::-1], ends[len(ends) - depth :]
    weights = rng.random(depth) + 0.1
    return list(zip(starts.tolist(), stops.tolist(), weights.tolist(), strict=True))


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.thorough_on("reference")
@of_processors
@pytest.mark.parametrize(
    ("depths", "dtype"),
    [
        (MANY, torch.float32),
        (MANY, torch.bfloat16),
        (FEW, torch.float32),
        (FEW, torch.float64),
        (ONE, torch.float32),
        pytest.param(MANY, torch.float64, marks=pytest.mark.thorough),
        pytest.param(FEW, torch.bfloat16, marks=pytest.mark.thorough),
        pytest.param(ONE, torch.float64, marks=pytest.mark.thorough),
        pytest.param(ONE, torch.bfloat16, marks=pytest.mark.thorough),
    ],
    ids=str,
)
@pytest.mark.parametrize("order", ORDERS)
def test_every_width(
    backend: Backend,
    rng: np.random.Generator,
    order: str,
    depths: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    """Few short paths make kernels work on several rows side by side."""
    for columns in range(1, 71):
        paths = [nested(columns, depth, rng) for depth in depths]
        case = in_order(interval_case(columns, paths), order, rng)
        target = torch.arange(max(7, len(paths))) % len(paths)
        check(case, case.logits(len(target), dtype), target, backend)


def rows_with_rings_apart(
    columns: int, order: str, rng: np.random.Generator
) -> tuple[Case, torch.Tensor]:
    """A path, and rows in which each ring in turn is far from the others or entirely -inf."""
    sizes = [1, 3, columns // 40, columns // 9, columns // 4]
    ends = np.cumsum(sizes)
    starts = np.array([0, 1, columns // 50, columns // 20, columns // 8])
    middle = columns // 2
    path = [
        (int(middle - start), int(middle - start + end), 0.3 - 0.05 * i)
        for i, (start, end) in enumerate(zip(starts, np.maximum(ends, starts + 1), strict=True))
    ]
    if columns == 100:  # with four intervals, kernels work on rows side by side
        path = path[1:]
    case = in_order(interval_case(columns, [path]), order, rng)
    base = case.logits(1, torch.float64)[0]
    rows = [base]
    for ring in range(len(path) + 1):
        inner = case.reach[ring - 1] if ring else np.zeros(columns, dtype=bool)
        outer = case.reach[ring] if ring < len(path) else np.ones(columns, dtype=bool)
        own = torch.from_numpy(outer & ~inner)
        for gap in (-torch.inf, -1e4, -100.0, -60.0, 60.0, 1e4)[:: 1 if columns < 2000 else 2]:
            row = base.clone()
            row[own] += gap
            rows.append(row)
    return case, torch.stack(rows)


@pytest.mark.sample(dtype=[torch.float32], columns=[1100])
@pytest.mark.thorough_on("reference")
@of_processors
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("columns", [100, 300, 1100, 17000])
def test_rings_apart(
    backend: Backend, rng: np.random.Generator, columns: int, order: str, dtype: torch.dtype
) -> None:
    """Each ring in turn is far from the others or entirely -inf."""
    case, rows = rows_with_rings_apart(columns, order, rng)
    check(case, rows.to(dtype), torch.zeros(len(rows), dtype=torch.long), backend)


@pytest.mark.sample(order=["random"])
@pytest.mark.parametrize("order", ORDERS)
def test_entropy(backend: Backend, rng: np.random.Generator, order: str) -> None:
    """It agrees with float64 in depth-first order, which other tests compare with the oracle."""
    for columns in (23, 300, 1100):
        ordered = interval_case(columns, [nested(columns, depth, rng) for depth in (1, 3, 7)])
        case = in_order(ordered, order, rng)
        logits = ordered.logits(3, torch.float64)
        logits[1, : columns // 3] -= 200
        target = torch.arange(3)
        loss, grad = call(ordered, logits, target, backend, reduction="sum", entropy=0.3)
        column = np.arange(columns) if case.table.position is None else case.table.position.numpy()
        moved, moved_grad = call(
            case, logits[:, column].contiguous(), target, backend, reduction="sum", entropy=0.3
        )
        torch.testing.assert_close(moved, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(moved_grad, grad[:, column], rtol=1e-9, atol=1e-15)
