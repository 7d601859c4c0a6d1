"""The command line: `python -m studies run`, `python -m studies report`."""

from __future__ import annotations

import argparse
import time
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from examples.icd10.memory import keep_freed_memory

from .choose import choose
from .plan import Step, plan
from .results import FOLDER, Results
from .run import Run, execute
from .task import Task
from .tasks import TASKS


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="train and measure what is not in the results yet")
    run.add_argument("--task", action="append", help="only this one; may be given again")
    run.add_argument("--minutes", type=float, help="begin no run after that many minutes")
    run.add_argument("--folder", type=Path, default=FOLDER, help="of the results")
    run.set_defaults(do=lambda o: run_plan(plan(), o.folder, o.task, o.minutes))
    quick = commands.add_parser("quick", help="two seeds of a made-up task, whole: a smoke test")
    quick.add_argument("--folder", type=Path, default=Path("build/study-quick"))
    quick.set_defaults(do=lambda o: run_quick(o.folder))
    report = commands.add_parser("report", help="tables and figures of docs/study.md, from results")
    report.add_argument("--folder", type=Path, default=FOLDER, help="of the results")
    report.set_defaults(do=lambda o: _report(o.folder))
    options = parser.parse_args(arguments)
    options.do(options)


def run_plan(
    steps: list[Step],
    folder: Path = FOLDER,
    only: list[str] | None = None,
    minutes: float | None = None,
) -> None:
    """Makes every run of the steps whose row is missing, in order."""
    torch.set_num_threads(1)  # the models are too small for two, and seconds of one compare
    keep_freed_memory()
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    tasks: dict[str, Task] = {}
    unreadable: set[str] = set()
    for step in steps:
        if (only and step.task not in only) or step.task in unreadable:
            continue
        if step.task not in tasks:
            try:
                tasks[step.task] = TASKS[step.task]()
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


def run_quick(folder: Path) -> None:
    """The whole plan on the made-up task."""
    steps = {step.name: Step("made-up", step.name, step.stage) for step in plan()}
    run_plan(list(steps.values()), folder)


def _vectors(run: Run, task: Task, results: Results) -> npt.NDArray[np.float32] | None:
    """Class vectors of cross-entropy as it was chosen, trained with seed 0."""
    if run.tree not in ("cover", "agglomerative"):
        return None
    return _vectors_of(choose(results, "ce"), task)


@cache
def _vectors_of(run: Run, task: Task) -> npt.NDArray[np.float32]:
    vectors = execute(run, task).vectors
    assert vectors is not None
    # A class that no row trains keeps the zeros that it began with.
    untrained = ~vectors.any(axis=1)
    vectors[untrained] = np.random.default_rng(0).normal(size=(untrained.sum(), vectors.shape[1]))
    return vectors


def _report(folder: Path) -> None:
    from .report import write_report  # matplotlib and pandas are for this alone

    write_report(folder)


if __name__ == "__main__":
    main()
