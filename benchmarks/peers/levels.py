"""HACE without a matrix of all nodes by all classes: level by level, or mask by mask."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import hace

from ..problem import DILUTION, Loss, Problem, Target
from .paths import dilution_weights, max_path, path_matrix, reach
from .peer import Peer

__all__ = ["INDEX_ADD", "MASKED"]


def index_add_hace(problem: Problem) -> Loss:
    """Every level's probabilities added to their parents', from the deepest up.

    With (N, B) in place of (B, N) it is not faster for large trees. Nodes of a tiny probability
    count as the smallest normal number.
    """
    tree, path, device = problem.leaf_tree, path_matrix(problem.leaf_tree), problem.device
    depth = tree.depths
    levels = [np.flatnonzero(depth == level) for level in range(tree.depth, 0, -1)]
    nodes_of = [torch.from_numpy(level).to(device) for level in levels]
    parents_of = [torch.from_numpy(tree.parents[level]).to(device) for level in levels]
    classes = torch.from_numpy(tree.classes.copy()).to(device)
    nodes = torch.from_numpy(np.maximum(path, 0)).to(device)
    weight = torch.from_numpy(dilution_weights(path)).to(device, problem.dtype)
    tiny = torch.finfo(problem.dtype).tiny

    def loss(logits: Tensor, target: Target) -> Tensor:
        of_class = F.softmax(logits, 1)
        p = of_class.new_zeros(len(logits), tree.num_nodes).index_copy(1, classes, of_class)
        for level, above in zip(nodes_of, parents_of, strict=True):
            p.index_add_(1, above, p[:, level])
        log_p = p.gather(1, nodes[target]).clamp_min(tiny).log()
        return -(weight[target] * log_p).sum(1).mean()

    return loss


def index_add_bytes(problem: Problem) -> int:
    """The levels and paths; of a row the softmax and two gradients of it, P and its gradient."""
    tree, size = problem.leaf_tree, problem.dtype.itemsize
    paths = problem.classes * max_path(tree) * (8 + size)
    levels = 16 * tree.num_nodes
    return levels + paths + problem.rows * (3 * problem.classes + 2 * tree.num_nodes) * size


def masked_hace(problem: Problem) -> Loss:
    """A log-sum-exp over the masked log-softmax for each node on the target's path.

    This is how code for flat-softmax hierarchical losses finds an ancestor's log-likelihood, with
    a mask of the classes below each node (N, C).
    """
    tree, path = problem.leaf_tree, path_matrix(problem.leaf_tree)
    mask = torch.from_numpy(reach(tree, path)).to(problem.device)
    nodes = torch.from_numpy(np.maximum(path, 0)).to(problem.device)
    weight = torch.from_numpy(dilution_weights(path)).to(problem.device, problem.dtype)

    def loss(logits: Tensor, target: Target) -> Tensor:
        log_p = F.log_softmax(logits, 1)
        total = torch.zeros_like(log_p[:, 0])
        for node, share in zip(nodes[target].T, weight[target].T, strict=True):
            total += share * log_p.where(mask[node], -torch.inf).logsumexp(1)
        return -total.mean()

    return loss


def masked_bytes(problem: Problem) -> int:
    """The masks and paths; of a row the log-softmax and two gradients, and what autograd keeps.

    That is, for each node on the path, a mask and the masked values.
    """
    tree, size = problem.leaf_tree, problem.dtype.itemsize
    length = max_path(tree)
    masks = tree.num_nodes * problem.classes + problem.classes * length * (8 + size)
    return masks + (3 * size + length * (size + 1)) * problem.rows * problem.classes


def _exact(problem: Problem) -> Loss:
    return hace.HACELoss(problem.tree, DILUTION)


INDEX_ADD = Peer(
    "index_add", "HACE, index_add by level", index_add_hace, index_add_bytes, same_as=_exact
)
MASKED = Peer("masked", "HACE, masked log-sum-exps", masked_hace, masked_bytes, same_as=_exact)
