"""The rows of the table: a loss each, and whether coarse-labelled phrases join the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

import hace

SMOOTHING = 0.1


@dataclass(frozen=True)
class Recipe:
    """One row: its key in rates.json, its name, and its loss for a tree."""

    key: str
    name: str
    loss: Callable[[hace.Hierarchy], nn.Module]
    is_hace: bool = True
    coarse: bool = False


RECIPES = (
    Recipe("ce", "cross-entropy", lambda tree: nn.CrossEntropyLoss(), is_hace=False),
    Recipe(
        "ce-smoothing",
        "CE + smoothing",
        lambda tree: nn.CrossEntropyLoss(label_smoothing=SMOOTHING),
        is_hace=False,
    ),
    Recipe("hace-0.7", "HACE d=0.7", lambda tree: hace.HACELoss(tree, dilution=0.7)),
    Recipe("hace-0.5", "HACE d=0.5", lambda tree: hace.HACELoss(tree, dilution=0.5)),
    # A coarse label is an inner node of the tree, so the targets are node ids.
    Recipe(
        "hace-0.5-coarse",
        "HACE d=0.5 + coarse",
        lambda tree: hace.HACELoss(tree, dilution=0.5, target_space="nodes"),
        coarse=True,
    ),
)
