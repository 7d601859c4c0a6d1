"""How good predictions are on a hierarchy, and how bad the mistakes.

Every function takes whole tensors, on any device, and returns a tensor there. `pred` and
`target` are integer tensors of one shape: class labels by default, node ids with
`targets="nodes"`, as in `hace.HACELoss`. They are checked, which waits for an accelerator.

A forest is read as a tree under one virtual root, whose height is 1 + the largest height of its
trees; its roots are therefore siblings. Depth counts from 0 at the roots, height from 0 at the
nodes with nothing below. A DAG has no single ancestor at a level and raises TypeError.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .hierarchy import Hierarchy, Space

__all__ = [
    "lca_height",
    "level_accuracies",
    "level_accuracy",
    "mistake_severity",
    "sibling_accuracy",
    "top_k_accuracy",
]


def top_k_accuracy(logits: Tensor, target: Tensor, k: int = 1) -> Tensor:
    """Share of the rows whose target is among the `k` largest logits.

    Args:
        logits: (B, C), any float dtype.
        target: (B,), integer column indices.
        k: 1 to C.

    Returns:
        A scalar in [0, 1]; NaN for an empty batch.

    Raises:
        TypeError: `target` does not hold integers.
        ValueError: the shapes do not fit or `k` is outside 1 to C.
        IndexError: a target is outside 0 to C-1.
    """
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "top_k_accuracy needs logits (B, C) and target (B,), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    num_classes = logits.shape[1]
    if not 1 <= k <= num_classes:
        raise ValueError(f"k = {k} is outside 1 to {num_classes}, the number of logits in a row")
    _check_indices("target", target, num_classes, "classes")
    best = logits.topk(k, dim=1).indices
    return _share((best == target.unsqueeze(1)).any(dim=1))


def level_accuracy(
    pred: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    level: int,
    *,
    targets: Space = "classes",
) -> Tensor:
    """Share of the rows that are right at depth `level`: same ancestor there.

    A node shallower than `level` counts as itself, so the accuracy at the hierarchy's depth is
    the plain accuracy.

    Args:
        pred: predictions, integer, any shape.
        target: the truth, same shape.
        hierarchy: the hierarchy that both are labels of.
        level: 0 (the roots) to `hierarchy.depth`.
        targets: what the integers are, class labels or node ids.

    Returns:
        A scalar in [0, 1]; NaN when there are no rows.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: `level` is outside the hierarchy, or the shapes differ.
        IndexError: a label is outside the hierarchy.
    """
    if not 0 <= level <= hierarchy.depth:
        raise ValueError(
            f"level = {level} is outside 0 to {hierarchy.depth}, the depths of this hierarchy"
        )
    tree = _tables(hierarchy, pred.device)
    a, b = _nodes(pred, target, hierarchy, tree, targets)
    for depth in range(hierarchy.depth, level, -1):
        a, b = _lift(a, depth, tree), _lift(b, depth, tree)
    return _share(a == b)


def level_accuracies(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, *, targets: Space = "classes"
) -> Tensor:
    """`level_accuracy` at every level: shape (`hierarchy.depth` + 1,), roots first.

    Arguments and errors as for `lca_height`.
    """
    tree = _tables(hierarchy, pred.device)
    a, b = _nodes(pred, target, hierarchy, tree, targets)
    shares = [_share(a == b)]
    for depth in range(hierarchy.depth, 0, -1):
        a, b = _lift(a, depth, tree), _lift(b, depth, tree)
        shares.append(_share(a == b))
    return torch.stack(shares[::-1])


def lca_height(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, *, targets: Space = "classes"
) -> Tensor:
    """Height of the lowest common ancestor, row by row (Bertinetto et al., CVPR 2020, section 4).

    The height of a node is the number of edges to the deepest node below it, so a right answer at
    a leaf has 0 and a leaf's sibling at least 1.

    Args:
        pred: predictions, integer, any shape.
        target: the truth, same shape.
        hierarchy: the hierarchy that both are labels of.
        targets: what the integers are, class labels or node ids.

    Returns:
        int64, the shape of `pred`.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: the shapes differ.
        IndexError: a label is outside the hierarchy.
    """
    tree = _tables(hierarchy, pred.device)
    a, b = _nodes(pred, target, hierarchy, tree, targets)
    # Level by level from the deepest: the nodes that stand at this depth and are not yet met
    # step to their parents, the shallower ones wait. Whoever is equal has met at the LCA.
    for depth in range(hierarchy.depth, -1, -1):
        apart = a != b
        a, b = (
            torch.where(apart, _lift(a, depth, tree), a),
            torch.where(apart, _lift(b, depth, tree), b),
        )
    return tree.height[a]


def mistake_severity(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, *, targets: Space = "classes"
) -> Tensor:
    """Mean of `lca_height` over the rows where `pred` differs from `target`.

    Arguments and errors as for `lca_height`. Returns a scalar; NaN when nothing is wrong.
    """
    height = lca_height(pred, target, hierarchy, targets=targets)
    wrong = pred != target
    return torch.where(wrong, height, 0).sum() / wrong.sum()


def sibling_accuracy(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, *, targets: Space = "classes"
) -> Tensor:
    """Share of the rows where `pred` has the target's parent (the target itself included).

    Arguments and errors as for `lca_height`. Returns a scalar in [0, 1]; NaN without rows.
    """
    tree = _tables(hierarchy, pred.device)
    a, b = _nodes(pred, target, hierarchy, tree, targets)
    return _share(tree.parent[a] == tree.parent[b])


class _Tables(NamedTuple):
    """The tree as tensors on one device, each with one more entry: the virtual root, node N."""

    parent: Tensor  # int64 (N+1); the roots' parent is N, and N is its own
    depth: Tensor  # int64 (N+1); -1 at N
    height: Tensor  # int64 (N+1)
    classes: Tensor  # int64 (C): label -> node


_cache: weakref.WeakKeyDictionary[Hierarchy, dict[torch.device, _Tables]]
_cache = weakref.WeakKeyDictionary()


def _tables(hierarchy: Hierarchy, device: torch.device) -> _Tables:
    """The hierarchy's tables on `device`, copied there once."""
    on_device = _cache.setdefault(hierarchy, {})
    if device not in on_device:
        on_device[device] = _build_tables(hierarchy, device)
    return on_device[device]


def _build_tables(hierarchy: Hierarchy, device: torch.device) -> _Tables:
    virtual = hierarchy.num_nodes
    parent = np.append(hierarchy.parents, virtual)
    parent[parent < 0] = virtual
    depth = np.append(hierarchy.depths, -1)
    height = np.append(hierarchy.heights, 1 + hierarchy.heights.max())
    arrays = (parent, depth, height, hierarchy.classes)
    return _Tables(*(torch.tensor(a, dtype=torch.int64, device=device) for a in arrays))


def _nodes(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, tree: _Tables, targets: Space
) -> tuple[Tensor, Tensor]:
    """Both tensors as node ids, checked."""
    size = hierarchy.num_targets(targets)
    if pred.shape != target.shape:
        raise ValueError(
            "pred and target must have one shape, "
            f"got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    _check_indices("pred", pred, size, targets)
    _check_indices("target", target, size, targets)
    if targets == "nodes":
        return pred.long(), target.long()
    return tree.classes[pred.long()], tree.classes[target.long()]


def _check_indices(name: str, index: Tensor, size: int, of: Space) -> None:
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {index.dtype}; of logits, take the argmax")
    if index.numel() == 0:
        return
    low, high = (int(x) for x in torch.aminmax(index))
    if low < 0 or high >= size:
        value = low if low < 0 else high
        raise IndexError(
            f"{name} holds {value}, outside 0 to {size - 1} ({size} {of}); "
            "leave ignored rows out before measuring"
        )


def _lift(node: Tensor, depth: int, tree: _Tables) -> Tensor:
    """The parents of the nodes that stand at `depth`; the other nodes as they are."""
    return torch.where(tree.depth[node] == depth, tree.parent[node], node)


def _share(right: Tensor) -> Tensor:
    return right.sum() / right.numel()
