"""What a task of the study is: a tree, labelled inputs in three parts, and how to train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import hace
from examples.icd10.features import Bags, Featurizer

IntArray = npt.NDArray[np.int64]
Labelled = tuple[list[str], IntArray]
"""Texts, and the class label of each."""


@dataclass(frozen=True)
class Schedule:
    """How every model of a task is trained, whatever its loss.

    Attributes:
        epochs: over the training rows; the study's long trainings have three times as many.
        batch: rows per step.
        rates: the lowest and the highest learning rate that is tried.
        width: of the vector that an input becomes, which the last layer takes.
        weight_decay: of AdamW.
    """

    epochs: int
    batch: int
    rates: tuple[float, float]
    width: int = 48
    weight_decay: float = 0.0


class Rows(Protocol):
    """Labelled inputs."""

    @property
    def label(self) -> IntArray:
        """The class of each."""

    def __len__(self) -> int: ...

    def inputs(self, rows: IntArray) -> tuple[Tensor, ...]:
        """What the encoder takes, for some rows."""


@dataclass(frozen=True)
class Texts:
    """Texts as bags of buckets, and the label of each."""

    bags: Bags
    label: IntArray

    def __len__(self) -> int:
        return len(self.label)

    def inputs(self, rows: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        """What `nn.EmbeddingBag` takes: buckets, offsets, weights."""
        return self.bags.batch(rows)


@dataclass(frozen=True)
class Features:
    """Vectors (N, F) that are not trained, and the label of each."""

    vectors: npt.NDArray[np.float32]
    label: IntArray

    def __len__(self) -> int:
        return len(self.label)

    def inputs(self, rows: IntArray) -> tuple[Tensor]:
        """Some of the vectors."""
        return (torch.from_numpy(self.vectors[rows]),)


@dataclass(frozen=True, eq=False)
class Task:
    """A tree, rows to train, to choose and to measure with, and how to train.

    Attributes:
        encoder: makes the module from inputs to vectors of the schedule's width.
        graph: the DAG that the tree is a part of, with the same classes, where there is one.
        device: where models are trained.
    """

    name: str
    tree: hace.Hierarchy
    train: Rows
    validation: Rows
    test: Rows
    encoder: Callable[[], nn.Module]
    schedule: Schedule
    graph: hace.Hierarchy | None = None
    device: str = "cpu"

    @classmethod
    def of_texts(
        cls,
        name: str,
        tree: hace.Hierarchy,
        parts: Sequence[Labelled],
        schedule: Schedule,
        graph: hace.Hierarchy | None = None,
    ) -> Task:
        """Of the texts to train, to choose and to measure with.

        They become bags of the buckets that occur more than once in the training texts.

        Other buckets, about half of them, teach nothing of other texts, and cost half of a step.
        """
        featurize = Featurizer(parts[0][0])
        bags = [featurize(texts) for texts, _ in parts]
        bucket, occurrences = np.unique(bags[0].bucket, return_counts=True)
        used = bucket[occurrences > 1]
        train, validation, test = (
            Texts(_only(b, used), np.asarray(label, dtype=np.int64))
            for b, (_, label) in zip(bags, parts, strict=True)
        )
        encoder = partial(nn.EmbeddingBag, len(used), schedule.width, mode="sum")
        return cls(name, tree, train, validation, test, encoder, schedule, graph)

    @classmethod
    def of_features(
        cls,
        name: str,
        tree: hace.Hierarchy,
        parts: Sequence[tuple[npt.NDArray[np.float32], IntArray]],
        schedule: Schedule,
        device: str = "cpu",
    ) -> Task:
        """Of vectors to train, to choose and to measure with: a linear probe.

        Each feature is standardised by the training vectors, and a vector's expected length is 1.
        """
        vectors = parts[0][0]
        mean, deviation = vectors.mean(0), vectors.std(0)
        scale = vectors.shape[1] ** -0.5 / np.maximum(deviation, 1e-3 * deviation.max())
        train, validation, test = (
            Features((v - mean) * scale, np.asarray(label, dtype=np.int64)) for v, label in parts
        )
        schedule = replace(schedule, width=vectors.shape[1])
        return cls(name, tree, train, validation, test, nn.Identity, schedule, device=device)

    def train_counts(self) -> IntArray:
        """Training rows per class."""
        return np.bincount(self.train.label, minlength=self.tree.num_classes)


def split(number: int, shares: Sequence[float], seed: int = 0) -> list[IntArray]:
    """The numbers 0 … number − 1 in random parts with these shares; the last has what is left."""
    order = np.random.default_rng(seed).permutation(number)
    ends = np.cumsum([round(number * share) for share in shares])
    return [np.sort(part) for part in np.split(order, ends)]


def _only(bags: Bags, used: IntArray) -> Bags:
    place = np.searchsorted(used, bags.bucket)
    known = used[np.minimum(place, len(used) - 1)] == bags.bucket
    row = np.repeat(np.arange(len(bags)), np.diff(bags.ptr))
    length = np.bincount(row[known], minlength=len(bags))
    ptr = np.concatenate([[0], np.cumsum(length)])
    return Bags(ptr, place[known], bags.weight[known])
