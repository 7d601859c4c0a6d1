"""Defines a task of the study: a tree, labelled inputs in three parts, and how to train."""

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
"""Texts and their class labels."""


@dataclass(frozen=True)
class Schedule:
    """How every model of a task is trained, whatever its loss.

    Attributes:
        epochs: passes over the training rows; the study's long trainings make three times as many.
        batch: rows per step.
        rates: the lowest and the highest learning rate that is tried.
        width: length of the vector that the encoder makes of an input, which the last layer takes.
        weight_decay: the weight decay of AdamW.
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
        """The class label of each row."""

    def __len__(self) -> int: ...

    def inputs(self, rows: IntArray) -> tuple[Tensor, ...]:
        """The encoder's arguments for the given rows."""


@dataclass(frozen=True)
class Texts:
    """Texts as bags of hashed n-grams (buckets), and their labels."""

    bags: Bags
    label: IntArray

    def __len__(self) -> int:
        return len(self.label)

    def inputs(self, rows: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of `nn.EmbeddingBag`: buckets, offsets, weights."""
        return self.bags.batch(rows)


@dataclass(frozen=True)
class Features:
    """Vectors (N, F), which stay fixed during training, and their labels."""

    vectors: npt.NDArray[np.float32]
    label: IntArray

    def __len__(self) -> int:
        return len(self.label)

    def inputs(self, rows: IntArray) -> tuple[Tensor]:
        """The vectors of the given rows."""
        return (torch.from_numpy(self.vectors[rows]),)


@dataclass(frozen=True, eq=False)
class Task:
    """A tree, rows for training, validation and test, and how to train.

    Attributes:
        encoder: makes the module that turns inputs into vectors of the schedule's width.
        graph: the DAG that the tree was cut from, with the same classes, if there is one.
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
        """A task from texts for training, validation and test.

        The texts become bags of the buckets that occur more than once in the training texts. The
        other buckets, about half of them, teach nothing about other texts and would cost half of
        each step.
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
        """A linear probe of vectors for training, validation and test.

        Each feature is standardised with the mean and deviation of the training vectors, and
        scaled so that a vector's expected length is 1.
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
    """Splits the numbers 0 … number − 1 at random by shares; the last part has the rest."""
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
