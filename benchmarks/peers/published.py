"""HACE as published (arXiv 2605.06274): all nodes' probabilities by a product with a matrix."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import hace

from ..problem import DILUTION, Loss, Problem, Target
from .paths import dilution_weights, max_path, path_entries, path_matrix, reach
from .peer import Peer

__all__ = ["DENSE", "EPS", "SPARSE", "same_hace"]

EPS = 1e-6  # inside the logarithm


def dense_hace(problem: Problem) -> Loss:
    """`P = softmax(z) Rᵀ`, `L = −(T[y] log P).sum()`.

    R (N, C) marks the classes at or below each node, T (C, N) holds each class's weights on its
    path. Both are dense.
    """
    tree, path = problem.leaf_tree, path_matrix(problem.leaf_tree)
    label, index = np.nonzero(path >= 0)
    weight = torch.from_numpy(dilution_weights(path)[label, index]).to(problem.dtype)
    r = torch.from_numpy(reach(tree, path)).to(problem.device, problem.dtype)
    t = torch.zeros(tree.num_classes, tree.num_nodes, dtype=problem.dtype)
    t[label, path[label, index]] = weight
    t = t.to(problem.device)

    def loss(logits: Tensor, target: Target) -> Tensor:
        log_p = (F.softmax(logits, 1) @ r.T + EPS).log()
        return -(t[target] * log_p).sum(1).mean()

    return loss


def dense_bytes(problem: Problem) -> int:
    """R and T; of a row the softmax, P + ε, log P, T's row, and its product with log P."""
    nodes, classes, size = problem.leaf_tree.num_nodes, problem.classes, problem.dtype.itemsize
    return (2 * nodes * classes + problem.rows * (classes + 4 * nodes)) * size


def sparse_hace(problem: Problem) -> Loss:
    """The same with R as a sparse CSR matrix, and the rows of T as lists of nodes and weights."""
    tree, path = problem.leaf_tree, path_matrix(problem.leaf_tree)
    label, index = np.nonzero(path >= 0)
    order = np.lexsort((label, path[label, index]))
    crow = np.zeros(tree.num_nodes + 1, np.int64)
    np.cumsum(np.bincount(path[label, index], minlength=tree.num_nodes), out=crow[1:])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        r = torch.sparse_csr_tensor(
            torch.from_numpy(crow),
            torch.from_numpy(label[order]),
            torch.ones(len(label), dtype=problem.dtype),
            (tree.num_nodes, tree.num_classes),
            device=problem.device,
            check_invariants=True,  # here, once; torch warns where this is left open
        )
    nodes = torch.from_numpy(np.maximum(path, 0)).to(problem.device)
    weight = torch.from_numpy(dilution_weights(path)).to(problem.device, problem.dtype)

    def loss(logits: Tensor, target: Target) -> Tensor:
        log_p = (torch.sparse.mm(r, F.softmax(logits, 1).T) + EPS).log()  # (N, B)
        return -(weight[target] * log_p.T.gather(1, nodes[target])).sum(1).mean()

    return loss


def sparse_bytes(problem: Problem) -> int:
    """R's entries and the paths; of a row the softmax, P + ε, log P, and the gradients of both."""
    tree, size = problem.leaf_tree, problem.dtype.itemsize
    paths = problem.classes * max_path(tree) * (8 + size)
    matrix = path_entries(tree) * (8 + size) + 8 * tree.num_nodes
    return matrix + paths + problem.rows * (problem.classes + 4 * tree.num_nodes) * size


def same_hace(problem: Problem) -> Loss:
    """Ours with their ε."""
    return hace.HACELoss(problem.tree, DILUTION, eps=EPS)


DENSE = Peer("dense", "HACE as published, dense", dense_hace, dense_bytes, same_as=same_hace)
SPARSE = Peer("sparse", "HACE, sparse CSR matrix", sparse_hace, sparse_bytes, same_as=same_hace)
