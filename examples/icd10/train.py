"""Trains the coder with one loss, and measures what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import hace
from hace import metrics

from .data import LEVELS, MedicalCodes, Phrases
from .features import Bags, Featurizer
from .model import Coder
from .recipes import Recipe

TOP = 5
SCORES = ("top-1", "top-5", *LEVELS, "severity", "siblings")


@dataclass(frozen=True)
class Schedule:
    """What all rows share."""

    epochs: int = 4
    batch: int = 128  # its logits, 18 MB, stay in the cache
    width: int = 64
    warmup: float = 0.1  # share of the steps; then the rate falls linearly to zero
    seed: int = 0

    def steps(self, codes: MedicalCodes, recipe: Recipe) -> int:
        """Steps of all epochs."""
        return self.epochs * -(-len(_training_phrases(codes, recipe)) // self.batch)


@dataclass(frozen=True)
class Trained:
    """A trained coder, the seconds that it took, and those of them in the loss."""

    recipe: Recipe
    model: Coder
    featurize: Featurizer
    seconds: float
    loss_seconds: float

    @torch.no_grad()
    def answer(self, texts: list[str]) -> Tensor:
        """The likeliest codes of each phrase, best first: labels (phrases, TOP)."""
        parts = (texts[first : first + 128] for first in range(0, len(texts), 128))
        return torch.cat([self.logits(part).topk(TOP).indices for part in parts])

    @torch.no_grad()
    def logits(self, texts: list[str]) -> Tensor:
        """Of every code, (phrases, C)."""
        logits: Tensor = self.model(*self.featurize(texts).batch(np.arange(len(texts))))
        return logits


def train(
    codes: MedicalCodes,
    recipe: Recipe,
    rate: float,
    schedule: Schedule,
    advance: Callable[[], object] = lambda: None,
) -> Trained:
    """Trains a new coder with a recipe's loss; `advance` is called after every step."""
    started = time.perf_counter()
    phrases = _training_phrases(codes, recipe)
    featurize = Featurizer(phrases.texts)
    bags, target = featurize(phrases.texts), torch.from_numpy(phrases.nodes)

    torch.manual_seed(schedule.seed)
    model = Coder(codes.tree.num_classes, schedule.width)
    loss_fn = recipe.loss(codes.tree)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    steps = schedule.steps(codes, recipe)
    ramp = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _share_of_rate(step / steps, schedule.warmup)
    )
    loss_seconds = 0.0
    for rows in _batches(bags, schedule):
        loss_seconds += _step(model, loss_fn, optimizer, bags.batch(rows), target[rows])
        ramp.step()
        advance()
    return Trained(recipe, model, featurize, time.perf_counter() - started, loss_seconds)


def measure(tree: hace.Hierarchy, best: Tensor, phrases: Phrases) -> dict[str, float]:
    """The table's figures for the answers to some phrases: shares in percent, and the severity."""
    target = torch.from_numpy(phrases.nodes)
    pred = best[:, 0]
    at_level = metrics.level_accuracies(pred, target, tree)
    shares = {
        "top-1": (pred == target).float().mean(),
        "top-5": (best == target.unsqueeze(1)).any(dim=1).float().mean(),
        **{name: at_level[level] for name, level in LEVELS.items()},
        "siblings": metrics.sibling_accuracy(pred, target, tree),
    }
    figures = {name: 100 * share.item() for name, share in shares.items()}
    figures["severity"] = metrics.mistake_severity(pred, target, tree).item()
    return {name: figures[name] for name in SCORES}


def _training_phrases(codes: MedicalCodes, recipe: Recipe) -> Phrases:
    return codes.train + codes.coarse if recipe.coarse else codes.train


def _share_of_rate(done: float, warmup: float) -> float:
    return min(done / warmup, (1 - done) / (1 - warmup))


def _batches(bags: Bags, schedule: Schedule) -> list[np.ndarray]:
    rng = np.random.default_rng(schedule.seed)
    starts = np.arange(schedule.batch, len(bags), schedule.batch)
    return [
        rows
        for _ in range(schedule.epochs)
        for rows in np.split(rng.permutation(len(bags)), starts)
    ]


def _step(
    model: Coder,
    loss_fn: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor],
    target: Tensor,
) -> float:
    """One step of training; returns the seconds that the loss and its gradient took."""
    optimizer.zero_grad()
    logits = model(*batch)
    # Cut from the graph, so that the loss is timed without the model.
    leaf = logits.detach().requires_grad_()
    started = time.perf_counter()
    loss_fn(leaf, target).backward()
    seconds = time.perf_counter() - started
    logits.backward(leaf.grad)
    optimizer.step()
    return seconds
