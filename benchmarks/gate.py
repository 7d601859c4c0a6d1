"""`python -m benchmarks.gate`: fails when a ratio of times exceeds its limit.

The limits are in limits.json, each for one race: the fastest call of our loss over that of
something else. Ratios within a race hold on slow machines, and those of the fastest calls of one
thread on busy ones too. Threads that wait for each other do not, so that limits of races on all
threads are left out where the machine is busy. A limit counts as exceeded when it is in three races
out of three.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from . import allocator, backend
from .cases import Case
from .machine import is_busy
from .runner import Runner

__all__ = ["Limit", "Verdict", "judge", "main", "measure_ratio"]

LIMITS = Path(__file__).with_name("limits.json")
REPEATS = 3
MARGIN = 1.25  # a suggested limit is so many times the largest ratio found
SECONDS = 0.5  # time for each contestant of a race


@dataclass(frozen=True)
class Limit:
    """The largest allowed ratio of the fastest call of `ours` to that of `over`.

    Attributes:
        ours, over: contestants, see `peers.PEERS`.
        tree, rows, dtype: those of the race, see `cases.Case`.
        threads: how many the race uses; 0 for all.
        limit: the ratio.
    """

    ours: str
    over: str
    tree: str
    rows: int
    dtype: str
    threads: int
    limit: float

    @property
    def name(self) -> str:
        """What it limits, on one line."""
        threads = "all threads" if self.threads == 0 else f"{self.threads} thread"
        shape = f"{self.tree}, B = {self.rows:,}, {self.dtype}, {threads}"
        return f"{self.ours} / {self.over}, {shape}"


@dataclass(frozen=True)
class Verdict:
    """The ratios that were found for a limit."""

    limit: Limit
    ratios: tuple[float, ...]

    @property
    def exceeded(self) -> bool:
        """Whether all races were beyond the limit."""
        return all(ratio > self.limit.limit for ratio in self.ratios)


def measure_ratio(limit: Limit, device: str, seconds: float = SECONDS) -> float:
    """The ratio of one race.

    Raises:
        RuntimeError: one of the two could not be timed.
    """
    contestants = (limit.over, limit.ours)
    case = Case("gate", limit.tree, limit.rows, contestants, limit.dtype, threads=limit.threads)
    found = {}
    for record in Runner(device, torch.get_num_threads(), seconds).run(case):
        if record.min_s is None:
            raise RuntimeError(f"{limit.name}: {record.title}: {record.status}: {record.note}")
        found[record.contestant] = record.min_s
    return found[limit.ours] / found[limit.over]


def judge(limit: Limit, measure: Callable[[Limit], float], repeats: int = REPEATS) -> Verdict:
    """Races until the limit is kept once, or exceeded in all repeats."""
    ratios: list[float] = []
    while len(ratios) < repeats and all(ratio > limit.limit for ratio in ratios):
        ratios.append(measure(limit))
    return Verdict(limit, tuple(ratios))


def suggest(limit: Limit, measure: Callable[[Limit], float]) -> Limit:
    """The limit with a margin over the largest of three ratios, to two digits."""
    largest = MARGIN * max(measure(limit) for _ in range(REPEATS))
    unit = 10.0 ** (math.floor(math.log10(largest)) - 1)
    return replace(limit, limit=round(math.ceil(largest / unit) * unit, 6))


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks every limit; 1 if one is exceeded, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--limits", type=Path, default=LIMITS, metavar="FILE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for each contestant")
    parser.add_argument(
        "--update", action="store_true", help="print limits that fit this machine, as a new file"
    )
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs an NVIDIA GPU and a torch that is built for CUDA")
    try:
        backend.choose(None, options.device)
    except ValueError as error:
        parser.error(str(error))
    limits = [Limit(**entry) for entry in json.loads(options.limits.read_text(encoding="utf-8"))]

    def measure(limit: Limit) -> float:
        return measure_ratio(limit, options.device, options.seconds)

    if options.update:
        suggested = []
        for limit in limits:
            suggested.append(suggest(limit, measure))
            print(f"{limit.name}: {suggested[-1].limit:g}", file=sys.stderr)
        entries = ",\n".join(f"  {json.dumps(asdict(limit))}" for limit in suggested)
        print(f"[\n{entries}\n]")
        return 0
    busy, exceeded, left_out = is_busy(), 0, 0
    for limit in limits:
        if busy and limit.threads != 1:
            left_out += 1
            print(f"{'left out':<9} {limit.name}: the machine is busy")
            continue
        verdict = judge(limit, measure)
        exceeded += verdict.exceeded
        ratios = ", ".join(f"{ratio:.2f}" for ratio in verdict.ratios)
        result = "EXCEEDED" if verdict.exceeded else "ok"
        print(f"{result:<9} {limit.name}: {ratios}; limit {limit.limit:g}", flush=True)
    print(f"{exceeded or 'none'} of {len(limits)} limits EXCEEDED, {left_out} left out")
    return 1 if exceeded else 0


if __name__ == "__main__":
    allocator.ensure_kept("benchmarks.gate")
    sys.exit(main())
