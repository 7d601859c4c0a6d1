"""The pictures are drawn, have labels, and show the right counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from answers_oracle import hierarchy_of
from shapes import DAGS, TREES

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
matplotlib.use("Agg")

import hace  # noqa: E402
from hace import metrics, pictures  # noqa: E402


@pytest.fixture
def drawn(rng: np.random.Generator) -> Any:
    tree = hierarchy_of(TREES["inner classes"](rng))
    logits = {"one": torch.randn(80, tree.num_classes), "two": torch.randn(80, tree.num_classes)}
    target = torch.randint(tree.num_classes, (80,))
    answers = {name: hace.predict(x, tree) for name, x in logits.items()}
    yield tree, logits, answers, target
    matplotlib.pyplot.close("all")


def test_icicle(drawn: Any) -> None:
    """The heights of a level's boxes add up to the number of rows."""
    tree, _, answers, target = drawn
    axes = pictures.error_icicle(answers["one"], target, tree)
    boxes = [patch for patch in axes.patches if patch.get_x() == 0]
    assert sum(box.get_height() for box in boxes) == pytest.approx(1)
    assert axes.get_title()
    axes.figure.canvas.draw()


def test_confusion(drawn: Any) -> None:
    tree, _, answers, target = drawn
    axes = pictures.confusion(answers["one"], target, tree, 0)
    (image,) = axes.images
    share = image.get_array()
    counts = metrics.node_counts(metrics.compare(answers["one"], target, tree))
    roots = [int(v) for v in tree.roots]
    recall = [float(counts.both[v] / counts.truth[v]) for v in sorted(roots)]
    assert np.diag(share).tolist() == pytest.approx(recall)
    assert "→" in axes.get_xlabel()


def test_severity(drawn: Any) -> None:
    tree, _, answers, target = drawn
    axes = pictures.severity_histogram(answers, target, tree)
    heights = sum(patch.get_height() for patch in axes.patches)
    wrong = sum((pred != target).double().mean().item() for pred in answers.values())
    assert heights == pytest.approx(100 * wrong)
    assert "edges" in axes.get_xlabel()


def test_curves_and_reliability(drawn: Any) -> None:
    tree, logits, _, target = drawn
    axes = pictures.operating_curves(logits, target, tree)
    assert len(axes.get_legend().get_texts()) == 2
    figure = pictures.reliability_diagrams(logits["one"], target, tree)
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert len(shown) == tree.depth + 1
    figure.canvas.draw()


def test_errors(drawn: Any, rng: np.random.Generator) -> None:
    tree, _, answers, target = drawn
    with pytest.raises(ValueError, match="level = 99"):
        pictures.confusion(answers["one"], target, tree, 99)
    with pytest.raises(ValueError, match="1 to 6 models, got 0"):
        pictures.severity_histogram({}, target, tree)
    dag = hierarchy_of(DAGS["diamond"](rng))
    with pytest.raises(ValueError, match="needs a tree"):
        pictures.error_icicle(torch.tensor([0]), torch.tensor([1]), dag)
