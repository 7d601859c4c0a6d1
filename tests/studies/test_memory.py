"""The study's figures of memory: each is measured in its own process, beside cross-entropy's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hace

pytest.importorskip("pandas", reason="the tables of the study are made with pandas (extra 'study')")

from studies import cost_tables, memory
from studies.losses import LOSSES
from studies.task import Schedule, Task
from studies.tasks import TASKS

MIB = 1 << 20


def cost(task: str, loss: str, **figures: float) -> memory.Cost:
    made = memory.Cost(task, loss, 128, 2 * MIB, 0, 4 * MIB, 50 * MIB, 1.0, "abc", "a machine")
    return replace(made, **figures)


def probe() -> Task:
    """A task whose logits take 2 MB and whose dense matrices take 9 MB.

    It has 1,110 nodes, 1,000 classes and batches of 512.
    """
    paths = [f"{i // 100}/{i // 10}/{i}" for i in range(1000)]
    rng = np.random.default_rng(0)
    part = rng.normal(size=(1024, 8)).astype(np.float32), rng.integers(1000, size=1024)
    schedule = Schedule(epochs=1, batch=512, rates=(0.01, 0.1))
    tree = hace.Hierarchy.from_paths(paths)
    return Task.of_features("made-up", tree, [part, part, part], schedule)


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in Linux's /proc")
def test_a_gradient_is_counted_and_the_dense_matrices_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "made-up", probe)
    monkeypatch.setattr(memory, "LOSSES", {name: LOSSES[name] for name in ("ce", "hace")})
    memory.measure_all(["made-up"], tmp_path)
    found = {c.loss: c for c in memory.load(tmp_path)}
    assert list(found) == ["ce", "hace", memory.DENSE]
    logits, matrices = 4 * 512 * 1000, 2 * 4 * 1110 * 1000
    for one in found.values():
        assert one.logits_bytes == logits
        assert one.loss_bytes > 0.9 * logits  # the gradient
        assert one.step_bytes > one.kept_bytes + 0.9 * one.loss_bytes
    assert found["ce"].kept_bytes < 0.1 * matrices
    assert found["hace"].kept_bytes < 0.1 * matrices
    assert found[memory.DENSE].kept_bytes == pytest.approx(matrices, rel=0.2)
    assert found["hace"].loss_bytes < 2 * logits


def test_tables_of_memory() -> None:
    costs = [
        cost("soc", "ce"),
        cost("soc", "hace", loss_bytes=2 * MIB, kept_bytes=MIB, loss_ms=0.5),
        cost("soc", memory.DENSE, kept_bytes=26 * MIB, loss_ms=20.0),
        cost("hpo", "ce"),
    ]
    lines = cost_tables.memory(costs).splitlines()
    assert lines[0] == "| loss | soc: loss | soc: step | hpo: loss | hpo: step |"
    assert "| HACE | 3.0 (0.8×) | 50.0 (1.0×) |  |  |" in lines
    (line,) = cost_tables.published(costs).splitlines()[2:]
    assert line.startswith("| Job title → SOC unit group | 128 × 4,096 |")
    assert line.endswith("| 1.00 | 0.50 | 20.00 | 40 | 4.0 | 3.0 | 30.0 | 10 |")
