"""One thing to measure on: a tree, the shape and type of the logits, and the kind of target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

import hace
from hace.tables import Tables

__all__ = ["ALPHA", "DILUTION", "TARGETS", "Loss", "Problem", "Target"]

DILUTION = 0.7  # of HACE, the paper's
ALPHA = 0.1  # of HXE, its paper's

Target: TypeAlias = Tensor | tuple[Tensor, Tensor]
Loss: TypeAlias = Callable[[Tensor, Target], Tensor]
"""The mean loss of (logits, target)."""

#: Each kind of target, and what `hace.HACELoss` must be told for it.
TARGETS: dict[str, dict[str, Any]] = {
    "index": {},
    "smoothing": {"label_smoothing": 0.1},
    "mixup": {},
    "probabilities": {},
    "soft labels": {"soft_label_beta": 10.0},
}


@dataclass(frozen=True)
class Problem:
    """A batch to compute the loss of; always the same one, on any device."""

    tree: hace.Hierarchy
    rows: int
    dtype: torch.dtype = torch.float32
    kind: str = "index"
    device: str = "cpu"

    @property
    def classes(self) -> int:
        """C."""
        return self.tree.num_classes

    @cached_property
    def leaf_tree(self) -> hace.Hierarchy:
        """The tree with a leaf for each class at an inner node, for peers that need leaves."""
        labels = Tables.of(self.tree).labels
        return hace.Hierarchy.from_parents(labels.links.parents, classes=labels.classes)

    @property
    def logits_bytes(self) -> int:
        """The bytes of the logits, and also of their gradient: B·C·itemsize."""
        return self.rows * self.classes * self.dtype.itemsize

    @property
    def options(self) -> dict[str, Any]:
        """What `hace.HACELoss` must be told for this kind of target."""
        return TARGETS[self.kind]

    def batch(self) -> tuple[Tensor, Target]:
        """Logits of a standard deviation of 1, which require a gradient, and the target."""
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(self.rows, self.classes, generator=generator).to(self.dtype)
        index = torch.randint(self.classes, (self.rows, 2), generator=generator)
        share = torch.rand(self.rows, generator=generator)
        target: Target = index[:, 0].contiguous()
        if self.kind == "mixup":
            target = index, torch.stack([share, 1 - share], 1)
        elif self.kind == "probabilities":
            target = torch.rand(self.rows, self.classes, generator=generator)
            target = (target / target.sum(1, keepdim=True)).to(self.dtype)
        if isinstance(target, tuple):
            target = target[0].to(self.device), target[1].to(self.device)
        else:
            target = target.to(self.device)
        return logits.to(self.device).requires_grad_(), target
