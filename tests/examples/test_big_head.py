from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("rich")

from examples.big_head.data import Batches, read_tree, synthetic_tree


def test_a_synthetic_tree_has_the_classes_asked_for() -> None:
    tree = synthetic_tree(2000)
    assert tree.num_classes == 2000
    assert tree.depth == 6
    sizes = np.bincount(tree.parents[tree.classes])
    assert sizes.max() > 10 * sizes[sizes > 0].mean()  # some nodes have very many children


def test_features_tell_of_the_class() -> None:
    tree = synthetic_tree(50, depth=3)
    x, label = Batches(tree, 64).draw(400)
    assert x.shape == (400, 64)
    same = label[:, None] == label
    near = x @ x.T / 64
    same.fill_diagonal_(False)
    assert near[same].mean() > near[~same].mean() + 0.2
    again, _ = Batches(tree, 64).draw(400)
    assert torch.equal(x, again)


def test_a_tree_from_a_file(tmp_path) -> None:
    np.savez(tmp_path / "tree.npz", parent=np.array([-1, 0, 0, 1, 1], np.int32))
    assert read_tree(str(tmp_path / "tree.npz")).num_classes == 3


def test_a_short_run() -> None:
    command = [sys.executable, "-m", "examples.big_head", "--classes", "500", "--steps", "2"]
    done = subprocess.run(
        [*command, "--features", "8", "--rows", "16", "--update-by-tiles"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "500 classes" in done.stdout
    assert "process 0:" in done.stdout
    assert "0 bytes exchanged per step" in done.stdout
