"""Trains two models on the phrases of ICD-10-CM, and draws their answers to held-out phrases.

    python -m examples.gallery                 # into docs/pictures
    python -m examples.gallery --out folder

The classes are the three-character categories (J45, asthma), below sections and chapters. Both
models are the demo's: a bag of hashed words and a linear layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import hace
from examples.icd10.data import MedicalCodes, Phrases, load
from examples.icd10.features import Featurizer
from examples.icd10.model import Coder
from hace import pictures

LEVELS = 4  # of a path in the classification: its name, chapter, section, category


def categories(codes: MedicalCodes) -> tuple[hace.Hierarchy, np.ndarray]:
    """The tree of chapters, sections and categories by title, and the label of each node."""
    names = codes.tree.names
    assert names is not None
    title = dict(zip(names, codes.titles, strict=True))
    label_of: dict[str, int] = {}
    paths: list[str] = []
    labels = np.full(len(names), -1)
    for node, name in enumerate(names):
        parts = name.split("/")
        if len(parts) < LEVELS:
            continue
        category = "/".join(parts[:LEVELS])
        if category not in label_of:
            label_of[category] = len(paths)
            above = ["/".join(parts[:depth]) for depth in range(2, LEVELS + 1)]
            paths.append("|".join(title[path] for path in above))
        labels[node] = label_of[category]
    return hace.Hierarchy.from_paths(paths, sep="|"), labels


def train(
    tree: hace.Hierarchy, loss_fn: nn.Module, featurize: Featurizer, phrases: Phrases, epochs: int
) -> Coder:
    """The demo's coder, trained with one loss."""
    torch.manual_seed(0)
    model = Coder(tree.num_classes, 64)
    bags, target = featurize(phrases.texts), torch.from_numpy(phrases.nodes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    order = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(bags)), -(-len(bags) // 256)):
            optimizer.zero_grad()
            loss_fn(model(*bags.batch(rows)), target[rows]).backward()
            optimizer.step()
    return model


@torch.no_grad()
def answer(model: Coder, featurize: Featurizer, texts: list[str]) -> Tensor:
    """The logits of some phrases."""
    return model(*featurize(texts).batch(np.arange(len(texts))))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.gallery", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/pictures"), help="folder of the pictures"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training (3)")
    options = parser.parse_args()
    matplotlib.use("Agg")
    codes = load()
    tree, labels = categories(codes)
    training = Phrases(codes.train.texts, labels[codes.train.nodes])
    featurize = Featurizer(training.texts)
    target = torch.from_numpy(labels[codes.test.nodes])
    losses = {"cross-entropy": nn.CrossEntropyLoss(), "HACE, d = 0.5": hace.HACELoss(tree, 0.5)}
    logits = {
        name: answer(
            train(tree, loss_fn, featurize, training, options.epochs), featurize, codes.test.texts
        )
        for name, loss_fn in losses.items()
    }
    answers = {name: hace.predict(x, tree) for name, x in logits.items()}
    last = answers["HACE, d = 0.5"]
    options.out.mkdir(parents=True, exist_ok=True)
    drawn = {
        "icicle": pictures.error_icicle(last, target, tree).figure,
        "confusion": pictures.confusion(last, target, tree, 0).figure,
        "severity": pictures.severity_histogram(answers, target, tree).figure,
        "operating": pictures.operating_curves(logits, target, tree).figure,
        "reliability": pictures.reliability_diagrams(logits["HACE, d = 0.5"], target, tree),
    }
    for name, figure in drawn.items():
        assert isinstance(figure, Figure)
        figure.savefig(options.out / f"{name}.png", dpi=110, bbox_inches="tight")
    for name, x in logits.items():
        print(f"{name}\n{hace.report(x, target, tree)}\n")


if __name__ == "__main__":
    main()
