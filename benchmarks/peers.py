"""What a HACE loss is measured against, written from the formulas.

Each peer is a function of (logits, target) and returns the mean loss; `clone` is the floor that
memory sets: it reads the logits and writes as many bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import hace

__all__ = ["Loss", "dense_hace", "dense_hace_bytes"]

Loss = Callable[[Tensor, Tensor], Tensor]


def dense_hace(tree: hace.Hierarchy, dilution: float) -> Loss:
    """The published formulation (arXiv 2605.06274): `P = softmax(z) Rᵀ`, `L = −(T[y] log P).sum()`.

    R (N, C) marks the classes at or below each node, T (C, N) holds each class's weights on its
    path. Both are dense.
    """
    reach = np.zeros((tree.num_nodes, tree.num_classes), np.float32)
    weight = np.zeros((tree.num_classes, tree.num_nodes), np.float32)
    for label, node in enumerate(tree.classes):
        path = tree.path(int(node))
        reach[path, label] = 1
        share = dilution * (1 - dilution) ** np.arange(len(path))
        share[-1] = (1 - dilution) ** (len(path) - 1)
        weight[label, path] = share
    r, t = torch.from_numpy(reach), torch.from_numpy(weight)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        log_p = (F.softmax(logits, 1) @ r.T + 1e-6).log()
        return -(t[target] * log_p).sum(1).mean()

    return loss


def dense_hace_bytes(tree: hace.Hierarchy) -> int:
    """What R and T take."""
    return 2 * 4 * tree.num_nodes * tree.num_classes
