"""Makes the runs of a plan that are not in the results yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from examples.icd10.memory import keep_freed_memory

from .choose import choose
from .plan import Step
from .results import FOLDER, Results
from .run import Run, execute
from .task import Task
from .tasks import TASKS


def run_plan(
    steps: list[Step],
    folder: Path = FOLDER,
    only: list[str] | None = None,
    minutes: float | None = None,
    load: Callable[[str], Task] | None = None,
    threads: int = 1,
) -> None:
    """Makes, in order, every run of the steps that has no row in the results.

    Args:
        only: if given, only the steps of these tasks.
        minutes: if given, no run begins after that many minutes.
        load: makes a task from its name; by default the tasks are those of `studies.tasks`.
        threads: number of torch's threads. The study's models are too small to gain from two, and
            seconds of processor time on one thread are comparable.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    tasks: dict[str, Task] = {}
    unreadable: set[str] = set()
    for step in steps:
        if (only and step.task not in only) or step.task in unreadable:
            continue
        if step.task not in tasks:
            try:
                tasks[step.task] = load(step.task) if load else TASKS[step.task]()
            except FileNotFoundError as error:
                print(f"{step.task} is left out: {error}", flush=True)
                unreadable.add(step.task)
                continue
        task, results = tasks[step.task], Results(step.task, folder)
        before = time.process_time()
        number = 0
        for run in step.stage(task, results):
            if ends is not None and time.monotonic() > ends:
                print("the time is up; the next call goes on from here", flush=True)
                return
            if run not in results:
                results.add(run, execute(run, task, _vectors(run, task, results)))
                number += 1
        spent = time.process_time() - before
        print(f"{step.task}, {step.name}: {number} runs, {spent:.0f} s", flush=True)


def _vectors(run: Run, task: Task, results: Results) -> npt.NDArray[np.float32] | None:
    """Class vectors for trees that are made of them: from the chosen cross-entropy, seed 0."""
    if run.tree not in ("cover", "agglomerative"):
        return None
    return _vectors_of(choose(results, "ce"), task)


@cache
def _vectors_of(run: Run, task: Task) -> npt.NDArray[np.float32]:
    vectors = execute(run, task).vectors
    assert vectors is not None
    # A class without training rows still has the zeros that it began with.
    untrained = ~vectors.any(axis=1)
    vectors[untrained] = np.random.default_rng(0).normal(size=(untrained.sum(), vectors.shape[1]))
    return vectors
