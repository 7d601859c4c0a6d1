"""Data for the recipes: a small tree of things, and examples of its classes.

What stands for an example is drawn around its class's centre, and a centre is the sum of a vector
for each node on the class's path: classes that share ancestors look alike, as they do in the world.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import hace

PATHS = [
    "animal/dog/beagle", "animal/dog/poodle", "animal/cat/siamese", "animal/cat/persian",
    "vehicle/car/taxi", "vehicle/car/van", "vehicle/boat/ferry", "vehicle/boat/canoe",
]  # fmt: skip


class Examples(NamedTuple):
    """Examples (N, …) and their labels, int64 (N)."""

    inputs: Tensor
    labels: Tensor

    def loader(self, batch_size: int = 32, shuffle: bool = True) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of them."""
        return DataLoader(TensorDataset(*self), batch_size, shuffle=shuffle)


def tree() -> hace.Hierarchy:
    """Eight classes in four groups in two kinds."""
    return hace.Hierarchy.from_paths(PATHS)


def vectors(features: int = 16, count: int = 256, seed: int = 0) -> Examples:
    """Feature vectors (count, features)."""
    of = tree()
    of_nodes = torch.randn(of.num_nodes, features, generator=torch.Generator().manual_seed(1))
    centres = torch.stack([of_nodes[of.path(int(node))].sum(0) for node in of.classes])
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(of.num_classes, (count,), generator=draw)
    noise = features**0.5 / 2.5 * torch.randn(count, features, generator=draw)
    return Examples(centres[labels] + noise, labels)


def images(size: int = 32, count: int = 128, seed: int = 0) -> Examples:
    """Images (count, 3, size, size), of 4 × 4 squares in the colours of the vectors above."""
    squares = vectors(3 * 16, count, seed)
    colours = squares.inputs.view(count, 3, 4, 4)
    return Examples(torch.nn.functional.interpolate(colours, size=(size, size)), squares.labels)
