"""HXE with a mask of classes for every edge of every class's path."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import hace

from ..problem import ALPHA, Loss, Problem, Target
from .paths import max_path, path_matrix, reach
from .peer import Peer

__all__ = ["HXE_MASKS"]


def masked_hxe(problem: Problem) -> Loss:
    """`L = −Σ_e λ_e log(P_child(e) / P_parent(e))` over the edges e of the target's path.

    Source: Bertinetto et al., *Making Better Mistakes*, CVPR 2020, section 3.1. As in their code,
    two tables of masks (C, C, E) mark for each class and edge the classes below its child and
    below its parent, and a batched product with those of the targets gives both probabilities.
    λ_e is `exp(−α · depth)` of the child.
    """
    tree, path = problem.leaf_tree, path_matrix(problem.leaf_tree)
    below = torch.from_numpy(reach(tree, path)).to(problem.device, problem.dtype)
    num_edges = num_edges_of(problem)
    child = torch.zeros(tree.num_classes, tree.num_classes, num_edges, dtype=problem.dtype)
    child, above = child.to(problem.device), child.to(problem.device, copy=True)
    for edge in range(num_edges):
        node = path[:, edge]
        parent = np.where(node >= 0, tree.parents[node], -1)
        child[:, :, edge] = _masks(below, node)
        above[:, :, edge] = _masks(below, parent)
    decay = np.where(path >= 0, np.exp(-ALPHA * tree.depths[path]), 0)[:, :num_edges]
    weight = torch.from_numpy(decay).to(problem.device, problem.dtype)

    def loss(logits: Tensor, target: Target) -> Tensor:
        p = F.softmax(logits, 1)[:, None]
        step = torch.bmm(p, child[target]) / torch.bmm(p, above[target])
        return -(weight[target] * step[:, 0].log()).sum(1).mean()

    return loss


def _masks(below: Tensor, node: np.ndarray) -> Tensor:
    """The classes below each node, and all of them above the roots and beyond a path's end."""
    exists = torch.from_numpy(node >= 0).to(below.device)[:, None]
    return torch.where(exists, below[torch.from_numpy(np.maximum(node, 0)).to(below.device)], 1)


def num_edges_of(problem: Problem) -> int:
    """E, the edges of the longest path; above a single root there is none."""
    return max(1, max_path(problem.leaf_tree) - (len(problem.leaf_tree.roots) == 1))


def masked_hxe_bytes(problem: Problem) -> int:
    """The tables; of a row its masks, the softmax, and a gradient of it."""
    classes, edges = problem.classes, num_edges_of(problem)
    masks = (classes + problem.rows) * 2 * classes * edges
    return (masks + problem.rows * 2 * classes) * problem.dtype.itemsize


def _ours(problem: Problem) -> Loss:
    return hace.HXELoss(problem.tree, ALPHA)


HXE_MASKS = Peer(
    "hxe_masks", "HXE, masks by edge", masked_hxe, masked_hxe_bytes, same_as=_ours, beside="hxe"
)
