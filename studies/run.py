"""One run of the study: its description, its training, and what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import hace

from .losses import LOSSES, Loss
from .measure import measure
from .task import IntArray, Rows, Task
from .trees import likeness, wrong_tree


@dataclass(frozen=True)
class Run:
    """Everything that a training depends on.

    Attributes:
        task, loss, parameter: their names.
        rate: the highest learning rate.
        seed: seed of the initial parameters, the order of the rows, and the random part of a wrong
            tree. 0 is for choosing, 1 and above for measuring.
        tree: the tree that the loss is given, by its name in `studies.trees`.
        per_class: the most training rows per class; 0 means all.
        length: multiple of the task's epochs.
        coarse: "0", or the percentage of training rows whose label is only the class's parent; a
            loss without a tree leaves these rows out. In "80 wrong 20", 20 % of these labels are
            another node at the parent's depth.
    """

    task: str
    loss: str
    parameter: str
    rate: float
    seed: int
    tree: str = "true"
    per_class: int = 0
    length: int = 1
    coarse: str = "0"

    def key(self) -> tuple[str, ...]:
        """The run's fields as text, which tell it from every other run."""
        return tuple(str(value) for value in asdict(self).values())


@dataclass(frozen=True)
class Outcome:
    """What was measured of a run.

    Attributes:
        figures: the measured values per decision ("most probable", "least cost"), by column of the
            results.
        heights: per decision, the height at which answer and truth meet, for every test row.
        vectors: the last layer's vector per class (C, F), if it is a plain linear layer.
        device: where the model was trained.
    """

    figures: dict[str, dict[str, float | str]]
    heights: dict[str, npt.NDArray[np.uint8]]
    vectors: npt.NDArray[np.float32] | None
    device: str


class Model(nn.Module):
    """A task's encoder and a last layer, which starts with zeros."""

    def __init__(self, task: Task, loss: Loss, given: hace.Hierarchy) -> None:
        super().__init__()
        columns = task.tree.num_nodes if loss.over_nodes else task.tree.num_classes
        width = task.schedule.width
        layer = nn.Linear(width, columns) if loss.layer is None else loss.layer(width, given)
        self.encode = task.encoder()
        self.classify = layer
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.encode(*inputs))
        return logits


def execute(run: Run, task: Task, vectors: npt.NDArray[np.float32] | None = None) -> Outcome:
    """Trains a model and measures it. `vectors` are needed for trees made of class vectors."""
    started = _now(task.device)
    loss = LOSSES[run.loss]
    options = dict(loss.grid[run.parameter])
    if run.coarse != "0" and loss.make is not LOSSES["ce"].make:
        options["target_space"] = "nodes"
    given = _given(run, task, vectors)
    criterion = loss.make(given, **options)

    torch.manual_seed(run.seed)
    model = Model(task, loss, given).to(task.device)
    seconds = _train(model, criterion, run, task)

    figures: dict[str, dict[str, float | str]] = {}
    heights: dict[str, npt.NDArray[np.uint8]] = {}
    classes = torch.tensor(task.tree.classes) if loss.over_nodes else None
    for part in ("validation", "test"):
        rows: Rows = getattr(task, part)
        logits = _logits(model, rows, task.device)
        if classes is not None:
            logits = logits[:, classes]
        measured = measure(logits, rows.label, task, least_cost=run.seed > 0)
        for decision, (values, met) in measured.items():
            row = figures.setdefault(decision, {})
            row.update({f"{part}_{name}": value for name, value in values.items()})
            if part == "test":
                heights[decision] = met
    if run.tree == "true":
        rho = 1.0
    else:  # a DAG has no single meeting point
        rho = likeness(task.tree, given) if given.is_tree else float("nan")
    shared: dict[str, float | str] = {
        **seconds,
        "run_seconds": _now(task.device) - started,
        "tree_likeness": rho,
    }
    weight = None
    layer = model.classify
    if type(layer) is nn.Linear and classes is None:
        weight = layer.weight.detach().cpu().numpy()
    figures = {decision: {**row, **shared} for decision, row in figures.items()}
    return Outcome(figures, heights, weight, task.device)


def _given(run: Run, task: Task, vectors: npt.NDArray[np.float32] | None) -> hace.Hierarchy:
    """The hierarchy that the loss is given, which is the task's tree or one in its place."""
    if run.tree != "dag":
        return wrong_tree(task.tree, run.tree, run.seed, vectors)
    if task.graph is None:
        raise ValueError(f"{task.name} has no DAG")
    return task.graph


def training_rows(run: Run, task: Task) -> IntArray:
    """The rows that a run trains on: all, or a random few of each class, the same in every run."""
    rows = np.arange(len(task.train))
    if run.per_class == 0:
        return rows
    order = np.random.default_rng(0).permutation(len(rows))
    label = task.train.label[order]
    by_class = np.argsort(label, kind="stable")
    counts = np.bincount(label, minlength=task.tree.num_classes)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(len(rows)) - first
    return np.sort(order[by_class[place < run.per_class]])


def _train(model: Model, criterion: nn.Module, run: Run, task: Task) -> dict[str, float]:
    device = task.device
    rows = training_rows(run, task)
    label = torch.from_numpy(task.train.label)
    if run.coarse != "0":
        rows, label = coarsened(rows, run, task)
    batch = min(task.schedule.batch, max(16, len(rows) // 32))
    epochs = task.schedule.epochs * run.length
    if run.per_class:  # few rows need more passes
        epochs *= 2
    rng = np.random.default_rng(run.seed)
    starts = np.arange(batch, len(rows), batch)
    batches = [part for _ in range(epochs) for part in np.split(rng.permutation(rows), starts)]
    optimizer = optimizer_of(model, run.rate, task)
    ramp = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / len(batches) / 0.1, (1 - step / len(batches)) / 0.9)
    )
    in_loss = 0.0
    model.train()
    criterion.to(device)
    started = _now(device)
    for part in batches:
        inputs = task.train.inputs(part)
        in_loss += step(model, criterion, optimizer, inputs, label[part], device)
        ramp.step()
    return {
        "epochs": epochs,
        "steps": len(batches),
        "train_seconds": _now(device) - started,
        "loss_seconds": in_loss,
    }


def optimizer_of(model: nn.Module, rate: float, task: Task) -> torch.optim.Optimizer:
    """The optimizer that trains every model of a task."""
    decay = task.schedule.weight_decay
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)


def step(
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Any],
    optimizer: torch.optim.Optimizer,
    inputs: tuple[Tensor, ...],
    target: Tensor,
    device: str,
) -> float:
    """Makes one training step and returns its seconds in the loss, forward and backward."""
    optimizer.zero_grad()
    logits = model(*(x.to(device) for x in inputs))
    target = target.to(device)
    # The logits are cut from the graph, so that the loss is timed without the model.
    leaf = logits.detach().requires_grad_()
    before = _now(device)
    criterion(leaf, target).backward()
    seconds = _now(device) - before
    logits.backward(leaf.grad)
    optimizer.step()
    return seconds


def coarsened(rows: IntArray, run: Run, task: Task) -> tuple[IntArray, Tensor]:
    """The rows to train on and the targets, when many labels are only the class's parent.

    Cross-entropy trains on the rows whose class is known. HACE trains on all rows, and its targets
    are ids of nodes.
    """
    percent, _, wrong = run.coarse.partition(" wrong ")
    rng = np.random.default_rng(0)
    is_coarse = rng.random(len(task.train)) < int(percent) / 100
    if run.loss == "ce":
        return rows[~is_coarse[rows]], torch.from_numpy(task.train.label)
    node = task.tree.classes[task.train.label]
    node[is_coarse] = task.tree.parents[node[is_coarse]]
    is_wrong = is_coarse & (rng.random(len(node)) < int(wrong or 0) / 100)
    for depth in np.unique(task.tree.depths[node[is_wrong]]):
        others = np.flatnonzero((task.tree.depths == depth) & (task.tree.heights > 0))
        here = np.flatnonzero(is_wrong & (task.tree.depths[node] == depth))
        if len(others) > 1:  # a random step from the node itself never comes back to it
            steps = rng.integers(1, len(others), len(here))
            node[here] = others[(np.searchsorted(others, node[here]) + steps) % len(others)]
    return rows, torch.from_numpy(node)


@torch.no_grad()
def _logits(model: Model, rows: Rows, device: str) -> Tensor:
    model.eval()
    parts = np.array_split(np.arange(len(rows)), -(-len(rows) // 512))
    batches = (rows.inputs(part) for part in parts)
    return torch.cat([model(*(x.to(device) for x in inputs)).cpu() for inputs in batches])


def _now(device: str) -> float:
    """Processor time in seconds; with an accelerator, clock time after its work is done."""
    if device == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()
