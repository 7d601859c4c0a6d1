"""What a task of the study is: a tree, and labelled texts split into three parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

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
        width: of the vector that a text becomes.
    """

    epochs: int
    batch: int
    rates: tuple[float, float]
    width: int = 48


@dataclass(frozen=True)
class Rows:
    """Texts as bags of buckets, and the label of each."""

    bags: Bags
    label: IntArray

    def __len__(self) -> int:
        return len(self.label)

    def inputs(self, rows: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        """What `nn.EmbeddingBag` takes for some rows: buckets, offsets, weights."""
        return self.bags.batch(rows)


@dataclass(frozen=True, eq=False)
class Task:
    """A tree, rows to train, to choose and to measure with, and how to train.

    Attributes:
        graph: the DAG that the tree is a part of, with the same classes, where there is one.
    """

    name: str
    tree: hace.Hierarchy
    train: Rows
    validation: Rows
    test: Rows
    num_buckets: int
    schedule: Schedule
    graph: hace.Hierarchy | None = None

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
            Rows(_only(b, used), np.asarray(label, dtype=np.int64))
            for b, (_, label) in zip(bags, parts, strict=True)
        )
        return cls(name, tree, train, validation, test, len(used), schedule, graph)

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
