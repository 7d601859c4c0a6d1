"""A small made-up task for the tests, which needs no package.

A class's texts consist of words drawn from its own, its parent's and its grandparent's words.
"""

from __future__ import annotations

import numpy as np

import hace

from ..task import Schedule, Task, split


def load(rows_per_class: int = 12) -> Task:
    """27 classes under 9 under 3."""
    rng = np.random.default_rng(0)
    paths = [f"a{i // 9}/b{i // 3}/c{i}" for i in range(27)]
    texts, label = [], []
    for number, path in enumerate(paths):
        for _ in range(rows_per_class):
            levels = rng.choice(path.split("/"), 4, p=[0.2, 0.3, 0.5])
            texts.append(" ".join(f"{level}word{rng.integers(4)}" for level in levels))
            label.append(number)
    labels = np.array(label)
    test, validation, train = split(len(texts), (0.25, 0.25))
    return Task.of_texts(
        "made-up",
        hace.Hierarchy.from_paths(paths),
        [([texts[i] for i in part], labels[part]) for part in (train, validation, test)],
        schedule=Schedule(epochs=2, batch=32, rates=(0.01, 0.08), width=16),
    )
