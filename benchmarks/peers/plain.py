"""A copy of the logits as the lower bound, and cross-entropy, which is used without a hierarchy."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import hace
from hace.tables import Tables

from ..problem import Loss, Problem, Target
from .peer import Peer, Step

__all__ = ["CLONE", "COMPILED", "CROSS_ENTROPY", "LIGER", "QUACK"]


def cross_entropy(problem: Problem) -> Loss:
    """`F.cross_entropy` of the problem's kind of target."""
    if problem.kind == "smoothing":
        smoothing = problem.options["label_smoothing"]
        return partial(F.cross_entropy, label_smoothing=smoothing)
    if problem.kind == "mixup":
        return _of_pairs
    if problem.kind == "soft labels":
        exact = torch.promote_types(problem.dtype, torch.float32)
        shares = soft_label_matrix(problem.leaf_tree, problem.options["soft_label_beta"], exact)
        table = shares.to(problem.device, problem.dtype)
        return lambda logits, target: F.cross_entropy(logits, table[target])
    return cast("Loss", F.cross_entropy)


def _of_pairs(logits: Tensor, target: Target) -> Tensor:
    """Mixup as it is usually written: a cross-entropy for each of the labels."""
    index, weight = target
    terms = [
        weight[:, k] * F.cross_entropy(logits, index[:, k], reduction="none")
        for k in range(index.shape[1])
    ]
    return torch.stack(terms).sum(0).mean()


def soft_label_matrix(tree: hace.Hierarchy, beta: float, dtype: torch.dtype) -> Tensor:
    """`q_yc ∝ exp(−β height(lca(c, y)) / height)` on a tree with one root: (C, C).

    Source: Bertinetto et al., *Making Better Mistakes*, CVPR 2020, section 3.2.
    """
    height = np.full((tree.num_classes, tree.num_classes), float(tree.depth), np.float32)
    layout = Tables.of(tree).layout()
    for node in np.argsort(-layout.height, kind="stable"):
        below = slice(layout.start[node], layout.stop[node])
        height[below, below] = layout.height[node]
    if layout.column is not None:  # from positions to columns
        position = np.argsort(layout.column)
        height = height[position][:, position]
    return (torch.from_numpy(height).to(dtype) * (-beta / tree.depth)).softmax(1)


def compiled_cross_entropy(problem: Problem) -> Loss:
    """The same through `torch.compile`, for this shape only, so that it gets its best code."""
    # Dynamo caches compiled code by code object, and gives up after a few shapes.
    torch.compiler.reset()
    return torch.compile(cross_entropy(problem), dynamic=False, fullgraph=True)


def _plain(problem: Problem) -> Loss:
    return hace.HACELoss(problem.tree, 1.0, **problem.options)


def _cross_entropy_bytes(problem: Problem) -> int:
    """The log-softmax, its gradient, and that of the logits; soft labels have a (C, C) table."""
    table = problem.classes**2 * problem.dtype.itemsize if problem.kind == "soft labels" else 0
    return 3 * problem.logits_bytes + table


def _gradient_bytes(problem: Problem) -> int:
    return problem.logits_bytes


def _clone(problem: Problem) -> Loss:
    return lambda logits, target: logits.detach().clone()


def _forward(loss: Loss, logits: Tensor, target: Target) -> Step:
    return lambda: loss(logits, target)


# Reads the logits and writes the same number of bytes, as every loss with a gradient has to.
CLONE = Peer("clone", "logits.clone()", _clone, _gradient_bytes, step=_forward)
CROSS_ENTROPY = Peer(
    "cross_entropy", "F.cross_entropy", cross_entropy, _cross_entropy_bytes, same_as=_plain
)
COMPILED = Peer(
    "compiled_cross_entropy",
    "F.cross_entropy, compiled",
    compiled_cross_entropy,
    _gradient_bytes,
    same_as=_plain,
    compiles=True,
)


# ---- cross-entropies for GPUs ----


def _on_gpu(package: str, problem: Problem) -> str | None:
    if problem.device == "cpu":
        return "it is for GPUs"
    if find_spec(package) is None:
        return f"the package {package} is not installed"
    return None if problem.kind == "index" else "it is measured with target indices"


def _liger(problem: Problem) -> Loss:
    from liger_kernel.transformers import LigerCrossEntropyLoss

    loss: Loss = LigerCrossEntropyLoss()
    return loss


def _quack(problem: Problem) -> Loss:
    from quack import cross_entropy

    return lambda logits, target: cross_entropy(logits, target, reduction="mean")


LIGER = Peer(
    "liger",
    "Liger cross-entropy",
    _liger,
    _gradient_bytes,
    same_as=_plain,
    lacks=lambda problem: _on_gpu("liger_kernel", problem),
    overwrites_logits=True,  # with their gradient
)
QUACK = Peer(
    "quack",
    "quack cross-entropy",
    _quack,
    _gradient_bytes,
    same_as=_plain,
    lacks=lambda problem: _on_gpu("quack", problem),
)
