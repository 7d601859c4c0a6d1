"""Trees and batches for a head of any size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

import hace

__all__ = ["Batches", "read_tree", "synthetic_tree"]

# Of the random vectors that nodes share; a table of all nodes would be as large as the head.
_NUM_VECTORS = 1 << 16


def read_tree(path: str) -> hace.Hierarchy:
    """The tree of a NumPy file: an .npz with an array `parent` (−1 at roots), or such an .npy."""
    loaded = np.load(path)
    parents = loaded["parent"] if hasattr(loaded, "files") else loaded
    return hace.Hierarchy.from_parents(parents.astype(np.int64))


def synthetic_tree(num_classes: int, depth: int = 7, seed: int = 0) -> hace.Hierarchy:
    """A tree whose nodes have few children or very many, as those of taxonomies.

    Each level has as many times the nodes of the one above as the next, and a node's share of them
    falls as a power of its rank.
    """
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.geomspace(5, num_classes, depth).round().astype(np.int64))
    parents, first = [np.full(sizes[0], -1)], 0
    for above, size in pairwise(sizes):
        share = rng.permutation(1 / np.arange(1, above + 1) ** 0.8)
        extra = rng.choice(above, size - above, p=share / share.sum())
        parents.append(first + np.sort(np.concatenate([np.arange(above), extra])))
        first += above
    return hace.Hierarchy.from_parents(np.concatenate(parents))


class Batches:
    """Features that tell of the class and of all nodes above it, with noise.

    Every process draws the same.
    """

    def __init__(self, tree: hace.Hierarchy, features: int, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._vectors = torch.randn(_NUM_VECTORS, features, generator=self._generator)
        self._parents = torch.from_numpy(tree.parents.copy())
        self._classes = torch.from_numpy(tree.classes.copy())

    def draw(self, rows: int) -> tuple[Tensor, Tensor]:
        """(rows, F) features and (rows) labels."""
        label = torch.randint(len(self._classes), (rows,), generator=self._generator)
        node, x = self._classes[label], torch.zeros(rows, self._vectors.shape[1])
        while (node >= 0).any():
            vector = self._vectors[(node.clamp(min=0) * 2654435761 + 12345) % _NUM_VECTORS]
            x += torch.where((node >= 0)[:, None], vector, 0.0)
            node = torch.where(node >= 0, self._parents[node.clamp(min=0)], -1)
        x += torch.randn(x.shape, generator=self._generator)
        return torch.nn.functional.normalize(x) * x.shape[1] ** 0.5, label
