"""Makes a task of the study from a data set and a network, which is trained whole or probed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..task import Schedule, Task
from . import aircraft, cifar100, inat21, nabirds
from .backbone import Backbone
from .dataset import Dataset, Part
from .views import Views

DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "cifar100": cifar100.read,
    "aircraft": aircraft.read,
    "nabirds": nabirds.read,
    "inat21": inat21.read,
    "inat21-mini": inat21.read_mini,
}
SMALLEST = {"cifar100": 0.6}  # smallest share of the area in a random piece; OTHERS for the others
OTHERS = 0.25


def whole_network(
    name: str,
    dataset: Dataset,
    backbone: Backbone,
    schedule: Schedule,
    device: str,
    smallest: float,
) -> Task:
    """A task that trains the network with its last layer, on random pieces of the pictures."""
    return Task(
        name,
        dataset.tree,
        Views(dataset.train, backbone.look, smallest),
        Views(dataset.validation, backbone.look),
        Views(dataset.test, backbone.look),
        backbone.make,
        replace(schedule, width=backbone.width),
        device=device,
    )


def probe(
    name: str,
    dataset: Dataset,
    backbone: Backbone,
    schedule: Schedule,
    device: str,
    folder: Path,
) -> Task:
    """A task that trains a linear layer on the network's vectors, which are kept in a folder."""
    parts = []
    for part_name in ("train", "validation", "test"):
        part: Part = getattr(dataset, part_name)
        parts.append(
            (_vectors(part, backbone, device, folder / f"{name}.{part_name}.npz"), part.label)
        )
    return Task.of_features(name, dataset.tree, parts, schedule, device)


def _vectors(part: Part, backbone: Backbone, device: str, kept: Path) -> npt.NDArray[np.float32]:
    """The vectors of the pictures' centres, read from the file if it has the same labels."""
    if kept.exists():
        with np.load(kept) as stored:
            if np.array_equal(stored["label"], part.label):
                vectors: npt.NDArray[np.float32] = stored["vectors"]
                return vectors
    network = backbone.make().to(device).eval()
    views = Views(part, backbone.look)
    batches = np.array_split(np.arange(len(views)), -(-len(views) // 128))
    found = []
    with torch.inference_mode():
        for rows in batches:
            found.append(network(views.inputs(rows)[0].to(device)).float().cpu().numpy())
    vectors = np.concatenate(found)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez(kept, vectors=vectors, label=part.label)
    return vectors
