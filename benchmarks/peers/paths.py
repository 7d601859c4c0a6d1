"""A hierarchy as the matrices that hierarchical losses are usually written with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import hace

from ..problem import DILUTION

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["dilution_weights", "max_path", "path_entries", "path_matrix", "reach"]


def path_matrix(tree: hace.Hierarchy) -> NDArray[np.int64]:
    """Each class's node and the nodes above it, padded with −1: (C, L)."""
    nodes, columns = tree.classes, []
    while (nodes >= 0).any():
        columns.append(nodes)
        nodes = np.where(nodes >= 0, tree.parents[nodes], -1)
    return np.stack(columns, 1)


def max_path(tree: hace.Hierarchy) -> int:
    """L, the nodes on the longest path of a class."""
    return int(tree.depths[tree.classes].max()) + 1


def path_entries(tree: hace.Hierarchy) -> int:
    """The nodes on all classes' paths, the entries of a sparse R."""
    return int((tree.depths[tree.classes] + 1).sum())


def dilution_weights(path: NDArray[np.int64]) -> NDArray[np.float64]:
    """HACE's weights on the paths, `d(1−d)^i` and at the topmost node `(1−d)^D`: (C, L)."""
    length = (path >= 0).sum(1, keepdims=True)
    index = np.arange(path.shape[1])
    weight = (1 - DILUTION) ** index * np.where(index < length - 1, DILUTION, 1.0)
    return np.where(path >= 0, weight, 0.0)


def reach(tree: hace.Hierarchy, path: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which classes are at or below each node: (N, C)."""
    matrix = np.zeros((tree.num_nodes, tree.num_classes), np.bool_)
    label, index = np.nonzero(path >= 0)
    matrix[path[label, index], label] = True
    return matrix
