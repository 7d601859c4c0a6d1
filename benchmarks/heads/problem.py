"""A layer over a tree of three levels, and the ways to its loss and gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

import hace

__all__ = ["Layer", "Problem", "Step", "least_seconds", "seconds_of"]

Step: TypeAlias = Callable[[], object]
"""A forward and a backward."""


@dataclass(frozen=True)
class Layer:
    """The size and dtype of a layer and its batch.

    Attributes:
        rows, features: B and F.
        width: the number of children at each of three levels, so that there are width³ classes.
        dtype: that of the products.
        autocast: whether input and weight are float32 and cast by autocast.
    """

    rows: int
    features: int
    width: int
    dtype: torch.dtype
    autocast: bool = False

    @property
    def num_classes(self) -> int:
        """C."""
        return self.width**3

    @property
    def is_half(self) -> bool:
        """Whether the products are in half precision."""
        return self.dtype.itemsize == 2

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.") + (" by autocast" if self.autocast else "")
        return f"{self.rows:,} × {self.features} × {self.num_classes:,}, {kind}"


class Problem:
    """Random numbers for a layer, HACE with d = 0.5 over it, and steps to time.

    Attributes:
        x, weight: (B, F) and (C, F), which require gradients.
        target: (B).
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        dtype = torch.float32 if layer.autocast else layer.dtype
        x, weight = (
            torch.randn(layer.rows, layer.features),
            torch.empty(layer.num_classes, layer.features),
        )
        weight.uniform_(-0.1, 0.1)
        self.x, self.weight = (part.to(dtype).requires_grad_() for part in (x, weight))
        self.target = torch.randint(layer.num_classes, (layer.rows,))

    def tree(self, shuffled: bool = False) -> hace.Hierarchy:
        """The tree, with its classes in depth-first order or shuffled."""
        width = self.layer.width
        parents = [np.full(width, -1)]
        for above in (width, width**2):
            first = len(np.concatenate(parents)) - above
            parents.append(np.repeat(np.arange(first, first + above), width))
        parent = np.concatenate(parents)
        classes = np.arange(len(parent) - width**3, len(parent))
        if shuffled:
            classes = np.random.default_rng(0).permutation(classes)
        return hace.Hierarchy.from_parents(parent, classes=classes)

    @cached_property
    def ordered(self) -> hace.HACELoss:
        """The loss whose columns are in the tree's order."""
        return hace.HACELoss(self.tree(), 0.5)

    @cached_property
    def shuffled(self) -> hace.HACELoss:
        """The loss whose columns are in another order."""
        return hace.HACELoss(self.tree(shuffled=True), 0.5)

    def cast(self) -> AbstractContextManager[object]:
        """A context with autocast if the layer uses it."""
        if not self.layer.autocast:
            return nullcontext()
        return torch.autocast("cpu", self.layer.dtype)

    def step(self, loss: Callable[[], Tensor]) -> Step:
        """The loss and the gradients of input and weight."""

        def run() -> None:
            with self.cast():
                value = loss()
            torch.autograd.grad(value, (self.x, self.weight))

        return run

    def whole(self, loss_fn: hace.HACELoss, target: object = None) -> Step:
        """`loss_fn(F.linear(x, weight), target)`."""
        to = self.target if target is None else target
        return self.step(lambda: loss_fn(linear(self.x, self.weight), to))

    def tiles(
        self, loss_fn: hace.HACELoss, target: object = None, logit_bytes: int | None = 0
    ) -> Step:
        """The same by tiles of classes; by rows where the budget allows it."""
        to = self.target if target is None else target
        return self.step(
            lambda: loss_fn.linear(self.x, self.weight, to, logit_bytes=logit_bytes)  # type: ignore[arg-type]
        )

    def by_rows(self, loss_fn: hace.HACELoss, rows: int = 512) -> Step:
        """The logits of some rows at a time."""
        return self.tiles(loss_fn, logit_bytes=rows * self.layer.num_classes * self.x.itemsize)

    def cross_entropy(self) -> Step:
        """PyTorch's loss of whole logits."""
        return self.step(lambda: cross_entropy(linear(self.x, self.weight), self.target))


def seconds_of(step: Step) -> float:
    """The processor time of one call in this thread."""
    start = time.thread_time()
    step()
    return time.thread_time() - start


# Rounds of short steps, and of any.
_MOST_ROUNDS, _LEAST_ROUNDS = 15, 2


def least_seconds(steps: Mapping[str, Step], budget: float) -> dict[str, float]:
    """The smallest processor time of each step in this thread.

    They take turns, after one that does not count, until `budget` seconds are spent.
    """
    found, rounds, spent = dict.fromkeys(steps, float("inf")), 0, 0.0
    for step in steps.values():
        step()
    while rounds < _LEAST_ROUNDS or (rounds < _MOST_ROUNDS and spent < budget):
        for name, step in steps.items():
            seconds = seconds_of(step)
            found[name], spent = min(found[name], seconds), spent + seconds
        rounds += 1
    return found
