"""The results of a run: one record per contestant and case, and the files that contain them."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["Record", "Result", "growth"]


@dataclass
class Record:
    """One contestant in one case. What does not apply is None.

    Attributes:
        sweep, tree, rows, dtype, target, threads: of the case.
        classes, nodes, depth: C, N and the depth of the tree.
        device: "cpu" or "cuda".
        contestant, title: short and long name.
        status: "ok"; "too large" to try here; "not here", because something is missing; "failed"
            with an error; or "wrong", an answer that differs from ours.
        note: the reason, where the status is not "ok".
        needs_bytes: what it allocates by its formula.
        min_s, q1_s, median_s, q3_s: seconds that a step takes, forward and backward: of the fastest
            call, and the quartiles.
        calls: how many were timed.
        bytes_per_s: of reading the logits and writing as much, in that time.
        of_copy: the same over that of a copy in the same race.
        times_ours: its median over that of our loss in the same race.
        kept_bytes: the memory of its matrices and tables.
        step_bytes: the peak memory of a step besides these and the logits.
    """

    sweep: str
    tree: str
    classes: int
    nodes: int
    depth: int
    rows: int
    dtype: str
    target: str
    threads: int
    device: str
    contestant: str
    title: str
    status: str = "ok"
    note: str = ""
    needs_bytes: int | None = None
    min_s: float | None = None
    q1_s: float | None = None
    median_s: float | None = None
    q3_s: float | None = None
    calls: int | None = None
    bytes_per_s: float | None = None
    of_copy: float | None = None
    times_ours: float | None = None
    kept_bytes: int | None = None
    step_bytes: int | None = None

    @property
    def logits_bytes(self) -> int:
        """What the logits take."""
        itemsize: int = getattr(torch, self.dtype).itemsize
        return self.classes * self.rows * itemsize

    @property
    def is_disturbed(self) -> bool:
        """Whether half of the calls took over 1.5 times the fastest, as on a busy machine."""
        return self.min_s is not None and (self.median_s or 0) > 1.5 * self.min_s


@dataclass
class Result:
    """A whole run.

    Attributes:
        machine, versions: what it was made on and with.
        settings: the options, and what follows from them.
        records: what it found.
    """

    machine: dict[str, Any]
    versions: dict[str, Any]
    settings: dict[str, Any]
    records: list[Record]

    def save(self, folder: Path) -> None:
        """Writes results.json, and the records alone as results.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "results.json", "w", encoding="utf-8") as file:
            json.dump(asdict(self) | {"growth": growth(self.records)}, file, indent=1)
            file.write("\n")
        with open(folder / "results.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Record)])
            writer.writeheader()
            writer.writerows(map(asdict, self.records))

    @classmethod
    def load(cls, path: Path) -> Result:
        """Reads a results.json."""
        content = json.loads(path.read_text(encoding="utf-8"))
        records = [Record(**record) for record in content["records"]]
        return cls(content["machine"], content["versions"], content["settings"], records)


# From so many logits on, a call takes more time in its kernel than in Python.
_LARGE = 500_000


def _slope(points: list[tuple[int, float]]) -> float:
    """x of t ∝ C^x, by least squares on the logarithms."""
    classes, seconds = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(classes, seconds, 1)[0])


def growth(records: list[Record]) -> dict[str, dict[str, float]]:
    """How each contestant's time grows with C: the exponent of `t ∝ C^x` in the sweep of C.

    x is the slope of log t on log C by least squares, where there are three points or more with
    more than half a million logits, below which the time of a call is mostly Python's.
    """
    points = defaultdict(list)
    for record in records:
        large = record.classes * record.rows > _LARGE
        if record.sweep == "classes" and record.median_s is not None and large:
            points[record.contestant].append((record.classes, record.median_s))
    return {
        contestant: {
            "exponent": _slope(sorted(found)),
            "from": min(found)[0],
            "to": max(found)[0],
        }
        for contestant, found in points.items()
        if len(found) >= 3
    }
