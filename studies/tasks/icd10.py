"""Task: which three-character category of ICD-10-CM does a phrase belong to?

The tree is chapter > section > category. The phrases and their split are those of
`examples.icd10`. A phrase's label is the category of its code.
"""

from __future__ import annotations

import numpy as np

import hace
from examples.icd10 import data

from ..task import Labelled, Schedule, Task

CATEGORY = data.LEVELS["category"]


def load() -> Task:
    """Every chapter."""
    codes = data.load()
    whole = codes.tree
    category = np.arange(whole.num_nodes)
    while True:
        deeper = whole.depths[category] > CATEGORY
        if not deeper.any():
            break
        category[deeper] = whole.parents[category[deeper]]
    names = sorted({int(node) for node in category[: whole.num_classes]})
    paths = [whole.path(node)[:-1] for node in names]  # without the root
    tree = hace.Hierarchy.from_paths(
        [[codes.codes[node] for node in reversed(path)] for path in paths]
    )
    number = {node: i for i, node in enumerate(names)}

    def labelled(phrases: data.Phrases) -> Labelled:
        return phrases.texts, np.array([number[int(category[n])] for n in phrases.nodes])

    return Task.of_texts(
        "icd10",
        tree,
        [labelled(codes.train), labelled(codes.validation), labelled(codes.test)],
        schedule=Schedule(epochs=3, batch=512, rates=(0.005, 0.045)),
    )
