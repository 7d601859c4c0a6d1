"""CIFAR-100: 60,000 pictures of 32 × 32 pixels, 100 classes in 20 groups (Krizhevsky 2009).

Reads the Python version from https://www.cs.toronto.edu/~kriz/cifar.html. A tenth of its training
pictures are for validation.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

import hace

from .dataset import Arrays, Dataset, Part, hold_out, required

WHAT = "the folder in which the archive cifar-100-python.tar.gz was unpacked"


def read(folder: Path) -> Dataset:
    """Reads the data set from its unpacked archive."""
    folder = required(folder / "cifar-100-python", WHAT)
    names, rows = _unpickled(folder / "meta"), _unpickled(folder / "train")
    above = dict(zip(rows["fine_labels"], rows["coarse_labels"], strict=True))
    fine, coarse = names["fine_label_names"], names["coarse_label_names"]
    tree = hace.Hierarchy.from_paths(
        [f"{coarse[above[label]]}/{name}" for label, name in enumerate(fine)]
    )
    train, validation = hold_out(_part(rows), 0.1)
    return Dataset(tree, train, validation, _part(_unpickled(folder / "test")))


def _part(rows: dict[str, Any]) -> Part:
    pixels = np.asarray(rows["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Part(Arrays(np.ascontiguousarray(pixels)), np.asarray(rows["fine_labels"], np.int64))


def _unpickled(path: Path) -> dict[str, Any]:
    """Loads one of the archive's pickles, which, like any pickle, may run code of its author."""
    with required(path, WHAT).open("rb") as stream:
        found: dict[str, Any] = pickle.load(stream, encoding="latin1")
    return found
