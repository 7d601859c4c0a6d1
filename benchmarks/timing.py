"""Times of steps that take turns, so that what else the machine does strikes all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from .peers import Step

__all__ = ["Times", "race", "time_calls"]

TURNS = 5
MAX_CALLS = 100  # in one turn

# After another's turn the caches hold its data. One call more brings back what fits them; beyond
# this many seconds a step's data do not.
WARM_SECONDS = 0.02


@dataclass(frozen=True)
class Times:
    """Seconds of single calls."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.samples)

    @property
    def fastest(self) -> float:
        """The least. What else a machine does only ever adds to it."""
        return min(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile."""
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third

    def divided(self, number: int) -> Times:
        """The times of steps of which each call made a number."""
        return Times(tuple(sample / number for sample in self.samples))


def race(steps: Mapping[str, Step], seconds: float, device: str) -> dict[str, Times]:
    """Times each step for about `seconds`, in five turns, of one call at least.

    A step that takes longer than `seconds` has two calls and no turn.
    """
    samples = {name: time_calls(step, 2, device) for name, step in steps.items()}
    pace = {name: max(min(two), 1e-7) for name, two in samples.items()}
    runners = [name for name in steps if pace[name] < seconds]
    for name in runners:
        samples[name] = []  # the first calls were to learn the pace
    for _ in range(TURNS):
        for name in runners:
            if pace[name] < WARM_SECONDS:
                steps[name]()
            calls = round(seconds / TURNS / pace[name])
            samples[name] += time_calls(steps[name], min(max(calls, 1), MAX_CALLS), device)
    return {name: Times(tuple(seconds_of)) for name, seconds_of in samples.items()}


def time_calls(step: Step, calls: int, device: str) -> list[float]:
    """The seconds that each of some calls takes."""
    if device != "cpu":
        return _time_calls_on_gpu(step, calls)
    samples = []
    for _ in range(calls):
        start = time.perf_counter()
        step()
        samples.append(time.perf_counter() - start)
    return samples


def _time_calls_on_gpu(step: Step, calls: int) -> list[float]:
    """By the GPU's clock, which waits for the host only where calls are shorter than launches."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [1e-3 * a.elapsed_time(b) for a, b in pairwise(marks)]
