"""What each loss and its training step hold at most, and HACE as published beside it.

Every loss is measured in a process of its own, which is forked after its task has been read, so
that no memory of another loss is counted. The measure is the growth of the resident set to its peak
(Linux only). What the first step of any size allocates once is allocated by a warm-up on a small
tree.
"""

from __future__ import annotations

import csv
import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import allocator
from benchmarks.memory import Gauge
from benchmarks.peers.published import dense_hace
from benchmarks.problem import Problem
from examples.icd10.memory import keep_freed_memory

from .losses import LOSSES, Loss
from .results import FOLDER, machine, revision
from .run import Model, optimizer_of, step
from .task import Task
from .tasks import TASKS, made_up

FILE = "memory.csv"
DENSE = "hace-dense"
STEPS = 3  # of training; from the second one on, the optimizer holds its state
REPEATS = 15
Criterion = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Cost:
    """What was measured of a loss on a task, for one batch of its training rows.

    Attributes:
        task, loss: names; the loss `DENSE` is HACE as published.
        rows: number of rows in the batch.
        logits_bytes: size of the logits.
        kept_bytes: what the loss keeps between steps: tables, matrices.
        loss_bytes: the most that the loss's forward and backward pass take on top of the logits,
            including the gradient.
        step_bytes: the most that training takes: model, optimizer, loss and step.
        loss_ms: processor time of the loss's forward and backward pass, the least of REPEATS.
        revision, machine: the version of the code, and where it ran.
    """

    task: str
    loss: str
    rows: int
    logits_bytes: int
    kept_bytes: int
    loss_bytes: int
    step_bytes: int
    loss_ms: float
    revision: str
    machine: str


def measure_all(only: list[str] | None = None, folder: Path = FOLDER) -> None:
    """Measures every loss on each task; the new rows replace the task's older ones."""
    torch.set_num_threads(1)
    for name in only or [name for name in TASKS if name != "made-up"]:
        try:
            task = TASKS[name]()
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        found = list(costs(task))
        _save([cost for cost in load(folder) if cost.task != name] + found, folder)
        print(f"{name}: {len(found)} losses", flush=True)


def load(folder: Path = FOLDER) -> list[Cost]:
    """What was measured; an empty list if there is no file."""
    file = folder / FILE
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return [_cost_of(row) for row in csv.DictReader(stream)]


def costs(task: Task) -> Iterator[Cost]:
    """The cost of each loss that is given the true tree, and of the published form."""
    forked = multiprocessing.get_context("fork")
    names = [name for name, loss in LOSSES.items() if loss.tree == "true"]
    _import_optimizers()
    gc.freeze()  # so that collections in the forked processes have little to look at
    for name in (*names, DENSE):
        here, there = forked.Pipe(duplex=False)
        process = forked.Process(target=_tell, args=(there, task, name))
        process.start()
        there.close()
        try:
            yield here.recv()
        except EOFError as error:
            process.join()
            raise RuntimeError(f"{task.name}, {name}: exit status {process.exitcode}") from error
        process.join()


def _save(costs: list[Cost], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w", encoding="utf-8", newline="") as stream:
        columns = [field.name for field in fields(Cost)]
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(cost) for cost in costs)


def _cost_of(row: dict[str, str]) -> Cost:
    texts = ("task", "loss", "revision", "machine")
    numbers = {name: int(value) for name, value in row.items() if name not in (*texts, "loss_ms")}
    named = {name: row[name] for name in texts}
    return Cost(**named, **numbers, loss_ms=float(row["loss_ms"]))  # type: ignore[arg-type]


def _import_optimizers() -> None:
    """Does the second of work that a first step needs, once instead of in every process."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.AdamW([parameter], fused=True).step()


def _tell(there: Connection, task: Task, name: str) -> None:
    allocator.return_at_once()
    _cost(made_up.load(), name)  # a warm-up, which loads code and starts threads
    allocator.return_at_once()
    there.send(_cost(task, name))


def _cost(task: Task, name: str) -> Cost:
    loss = LOSSES["hace" if name == DENSE else name]
    size = task.schedule.batch
    columns = task.tree.num_nodes if loss.over_nodes else task.tree.num_classes
    rows = np.random.default_rng(0).permutation(len(task.train))[: STEPS * size]
    batches = [
        (task.train.inputs(part), torch.from_numpy(task.train.label[part]))
        for part in np.split(rows, range(size, len(rows), size))
    ]
    target = batches[0][1]
    gauge = Gauge("cpu")
    began = gauge.held()
    criterion = _criterion(loss, name, task)
    kept = gauge.held() - began

    logits = torch.randn(len(target), columns).requires_grad_()
    before = gauge.held()
    gauge.forget_peak()
    criterion(logits, target).backward()
    of_loss = gauge.peak() - before

    logits.grad = None
    gauge.held()  # gives back what was freed
    gauge.forget_peak()
    without = logits.nbytes
    model = Model(task, loss, task.tree)
    optimizer = optimizer_of(model, 1e-3, task)
    for inputs, labels in batches:
        step(model, criterion, optimizer, inputs, labels, "cpu")
    of_step = gauge.peak() - began - without
    del model, optimizer

    keep_freed_memory()  # as in the runs of the study
    best = min(_seconds(criterion, logits, target) for _ in range(REPEATS))
    return Cost(
        task=task.name,
        loss=name,
        rows=len(target),
        logits_bytes=logits.nbytes,
        kept_bytes=kept,
        loss_bytes=of_loss,
        step_bytes=of_step,
        loss_ms=round(1e3 * best, 3),
        revision=revision(),
        machine=machine("cpu"),
    )


def _criterion(loss: Loss, name: str, task: Task) -> Criterion:
    if name == DENSE:
        return dense_hace(Problem(task.tree, task.schedule.batch))
    first = next(iter(loss.grid.values()))  # all parameters take the same memory
    return loss.make(task.tree, **first)


def _seconds(criterion: Criterion, logits: Tensor, target: Tensor) -> float:
    logits.grad = None
    started = time.process_time()
    criterion(logits, target).backward()
    return time.process_time() - started
