"""A linear probe: features of a frozen backbone, saved once, and a classifier on top.

    python -m examples.recipes.linear_probe

`HierarchicalClassifier` is layer, loss and decision in one; its directory is all that a service
needs. Replace `saved_features` with what your backbone (DINOv2, CLIP, …) gave.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

import hace
from hace import metrics
from hace.nn import HierarchicalClassifier

from .data import tree, vectors


def saved_features(folder: Path) -> None:
    """Stands for a run of the backbone: features.npy (N, F) and labels.npy (N) of each part."""
    for part, seed in (("train", 0), ("test", 1)):
        examples = vectors(features=32, seed=seed)
        np.save(folder / f"{part}-features.npy", examples.inputs.numpy())
        np.save(folder / f"{part}-labels.npy", examples.labels.numpy())


def load(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of unit length, as probes take them, and labels."""
    features = torch.from_numpy(np.load(folder / f"{part}-features.npy"))
    labels = torch.from_numpy(np.load(folder / f"{part}-labels.npy"))
    return torch.nn.functional.normalize(features), labels


def main() -> dict[str, float]:
    """Trains, saves, loads, and returns the figures of the loaded classifier."""
    torch.manual_seed(0)
    hierarchy = tree()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved_features(folder)
        features, labels = load(folder, "train")
        probe = HierarchicalClassifier(features.shape[1], hierarchy, hace.HACELoss(hierarchy, 0.5))
        optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=50)

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            penalty = 1e-3 * probe.linear.weight.square().sum()
            loss = probe(features, labels).loss + penalty
            loss.backward()
            return loss

        optimizer.step(step)
        probe.save_pretrained(folder / "probe")

        served = HierarchicalClassifier.from_pretrained(folder / "probe")
        features, labels = load(folder, "test")
        answers = served.predict(features)
    figures = {
        "accuracy": metrics.accuracy(answers, labels, hierarchy).item(),
        "severity": metrics.mistake_severity(answers, labels, hierarchy).item(),
    }
    print(figures)
    return figures


if __name__ == "__main__":
    main()
