"""The packages hiclass and hiereval, if installed, give the same figures on paths from the root."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from answers_oracle import hierarchy_of
from shapes import TREES

from hace import metrics


@pytest.fixture(params=["forest", "flat"])
def paths(request: pytest.FixtureRequest, rng: np.random.Generator):
    """Answers and truths as labels, and as paths of node names, roots first."""
    tree = hierarchy_of(TREES[request.param](rng))
    pred, target = torch.randint(tree.num_classes, (2, 50))
    as_paths = [
        [[str(v) for v in tree.path(int(tree.classes[label]))][::-1] for label in labels]
        for labels in (pred.tolist(), target.tolist())
    ]
    return tree, pred, target, *as_paths


def test_hiclass(paths) -> None:
    other = pytest.importorskip("hiclass.metrics", reason="hiclass is not installed")
    tree, pred, target, pred_paths, target_paths = paths
    longest = tree.depth + 1
    padded = [
        np.array([path + [""] * (longest - len(path)) for path in side])
        for side in (target_paths, pred_paths)
    ]
    for ours, theirs in (
        (metrics.hierarchical_precision, other.precision),
        (metrics.hierarchical_recall, other.recall),
        (metrics.hierarchical_f1, other.f1),
    ):
        for average in ("micro", "macro"):
            if average == "macro" and theirs is other.f1:
                continue  # hiclass warns, and depends on zero_division, if nothing is shared
            found = ours(pred, target, tree, average=average).item()
            assert found == pytest.approx(theirs(*padded, average=average))


def test_hiereval(paths) -> None:
    other = pytest.importorskip("hiereval", reason="hiereval is not installed")
    tree, pred, target, pred_paths, target_paths = paths
    prf = other.hierarchical_prf(target_paths, pred_paths)
    found = metrics.hierarchical_f1(pred, target, tree).item()
    assert found == pytest.approx(prf.f1)
    assert metrics.hierarchical_precision(pred, target, tree).item() == pytest.approx(prf.precision)
    assert metrics.hierarchical_recall(pred, target, tree).item() == pytest.approx(prf.recall)
    apart = other.mean_taxonomic_distance(target_paths, pred_paths)
    found = metrics.mean_distance(pred, target, tree, distance="hops").item()
    assert found == pytest.approx(apart)
