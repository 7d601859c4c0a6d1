"""The file of results, with a row per run and decision, and a file of heights of the test rows.

A run's rows are appended in one write, so that an interrupted run leaves nothing behind. A run that
has a row is not made again. Each task has a file of its own, so that tasks can run side by side.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from .run import Outcome, Run

FOLDER = Path(__file__).parent / "results"
MOST_PROBABLE = "most probable"
LEAST_COST = "least cost"
RUN = tuple(field.name for field in fields(Run))
MEASURED = (
    "top1", "top5", "height", "severity", "hops", "siblings", "hf1", "nll", "ece", "tail",
    "middle", "head", "macro", "levels",
)  # fmt: skip
COLUMNS = (
    *RUN,
    "decision",
    *(f"{part}_{name}" for part in ("validation", "test") for name in MEASURED),
    "tree_likeness", "epochs", "steps", "loss_seconds", "train_seconds", "run_seconds",
    "revision", "machine",
)  # fmt: skip
TEXT = ("decision", "validation_levels", "test_levels", "revision", "machine")

Row = dict[str, str]


class Results:
    """What was measured for one task, as stored in a folder."""

    def __init__(self, task: str, folder: Path = FOLDER) -> None:
        self.task = task
        self._file = folder / f"{task}.csv"
        self._heights_file = folder / f"{task}.heights.npz"
        self.rows: list[Row] = []
        if self._file.exists():
            with self._file.open(encoding="utf-8", newline="") as stream:
                self.rows = list(csv.DictReader(stream))
        self._done = {tuple(row[name] for name in RUN) for row in self.rows}
        self.heights: dict[str, npt.NDArray[np.uint8]] = {}
        if self._heights_file.exists():
            with np.load(self._heights_file) as stored:
                self.heights = {name: stored[name] for name in stored.files}

    def __contains__(self, run: Run) -> bool:
        return run.key() in self._done

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def add(self, run: Run, outcome: Outcome) -> None:
        """Appends a run. Heights are kept for the runs that count (seed 1 and above)."""
        rows = [
            {
                **{name: str(value) for name, value in asdict(run).items()},
                "decision": decision,
                **{name: _text(value) for name, value in figures.items()},
                "revision": revision(),
                "machine": machine(outcome.device),
            }
            for decision, figures in outcome.figures.items()
        ]
        if run.seed > 0:  # saved first, so that every row in the table has its heights
            for decision, heights in outcome.heights.items():
                self.heights[heights_name(run, decision)] = heights
            self._save_heights()
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            writer.writeheader()
        writer.writerows(rows)
        with self._file.open("ab") as stream:
            stream.write(text.getvalue().encode())
        self.rows += rows
        self._done.add(run.key())

    def _save_heights(self) -> None:
        self._heights_file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._heights_file.with_suffix(".part.npz")
        np.savez_compressed(unfinished, **self.heights)  # type: ignore[arg-type,unused-ignore]
        os.replace(unfinished, self._heights_file)


def heights_name(run: Run, decision: str) -> str:
    """The name of a run's array in the file of heights."""
    return "; ".join((*run.key(), decision)).replace("/", "|")


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


@cache
def revision() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(
            asked, cwd=FOLDER.parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def machine(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {'one thread' if threads == 1 else f'{threads} threads'}"
