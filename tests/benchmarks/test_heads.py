"""`python -m benchmarks.heads` can measure every figure, and says if a goal is missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.heads.__main__ import line
from benchmarks.heads.goals import (
    Figure,
    errors,
    of_torch,
    schedules,
    soft_targets,
    tree_linear,
    updates,
)
from benchmarks.heads.peak import peak_mib
from benchmarks.heads.problem import Layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "measure", [schedules, of_torch, errors, updates, tree_linear, soft_targets]
)
def test_small_layers(
    measure: Callable[[Layer, float], Iterator[Figure]], dtype: torch.dtype
) -> None:
    layers = [Layer(520 if measure is schedules else 70, 4, 3, dtype)]
    if measure is schedules and dtype == torch.bfloat16:
        layers.append(Layer(70, 4, 2, dtype, autocast=True))
    for layer in layers:
        found = list(measure(layer, 0))
        assert len({figure.what for figure in found}) == len(found) > 0
        assert all(figure.found > 0 and math.isfinite(figure.found) for figure in found)


@pytest.mark.thorough
def test_memory() -> None:
    assert -8 < peak_mib("tiles", 2000) < 64


def test_goals_are_missed_on_their_side() -> None:
    assert line(Figure("a", "b", 1.204, 1.2)).endswith("| 1.20 | ≤ 1.2 |")
    assert line(Figure("a", "b", 1.206, 1.2)).endswith("| 1.21 | ≤ 1.2, missed |")
    assert line(Figure("a", "b", 9.7, 10, at_least=True)).endswith("| 9.70 | ≥ 10, missed |")
    assert line(Figure("a", "b", 71.4, 10, at_least=True)).endswith("| 71 | ≥ 10 |")
    assert line(Figure("a", "b", 18.6, 64, unit="MiB")).endswith("| 19 MiB | ≤ 64 MiB |")
    assert line(Figure("a", "b", 1.3)).endswith("| 1.30 | – |")
