"""`HierarchicalClassifier.save_pretrained` and `from_pretrained`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import hace
from hace.nn import HierarchicalClassifier

pytest.importorskip("safetensors")

PATHS = ["a/x", "a/y", "b/z", "b/c/w", "b/c/v", "b", "d"]


def tree(paths: list[str] = PATHS) -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(paths)


def losses() -> dict[str, hace.HACELoss | hace.HXELoss]:
    of = tree()
    weight = torch.rand(of.num_classes)
    return {
        "default": hace.HACELoss(of),
        "HACE": hace.HACELoss(of, 0.31, weight=weight, label_smoothing=0.1, smoothing="others"),
        "coarse": hace.HACELoss(of, target_space="nodes", ignore_index=3, reduction="sum"),
        "HXE": hace.HXELoss(of, 0.4, depth="parent", eps=1e-6),
        "soft": hace.SoftLabelLoss(of, 4.0, distance="depth"),
        "entropy": hace.RegularizedCrossEntropyLoss(of, 0.2),
        "cross-entropy": hace.CrossEntropyLoss(of, ignore_index=255),
    }


@pytest.mark.parametrize("name", losses())
def test_the_same_classifier_comes_back(name: str, tmp_path: Path) -> None:
    saved = HierarchicalClassifier(5, tree(), losses()[name], bias=name != "HXE")
    saved.save_pretrained(tmp_path / "model")
    found = HierarchicalClassifier.from_pretrained(tmp_path / "model")
    assert found.hierarchy == saved.hierarchy
    assert found.hierarchy.names == saved.hierarchy.names
    assert repr(found) == repr(saved)
    x, target = torch.randn(6, 5), torch.tensor([0, 1, 2, 4, 5, 6])
    assert torch.equal(found.predict(x), saved.predict(x))
    assert torch.equal(found.log_prob(x), saved.log_prob(x))
    assert torch.equal(found(x, target).loss, saved(x, target).loss)
    found(x, target).loss.sum().backward()
    assert found.linear.weight.grad is not None


def test_dtype_options_and_saving_again(tmp_path: Path) -> None:
    saved = HierarchicalClassifier(5, tree(), dtype=torch.bfloat16)
    for _ in range(2):
        saved.save_pretrained(tmp_path)
    found = HierarchicalClassifier.from_pretrained(tmp_path, fused=True, device="cpu")
    assert found.linear.weight.dtype == torch.bfloat16
    assert found.fused is True
    assert torch.equal(found.linear.weight, saved.linear.weight)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "hierarchy.npz", "model.safetensors"]
    assert hace.Hierarchy.load(tmp_path / "hierarchy.npz") == tree()


def test_weights_of_one_s_own_are_asked_for(tmp_path: Path) -> None:
    loss = hace.PathLogLoss(tree(), lambda target, node, depth, height: 1.0 / (1 + depth))
    saved = HierarchicalClassifier(5, tree(), loss)
    saved.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"PathLogLoss.*loss=\.\.\."):
        HierarchicalClassifier.from_pretrained(tmp_path)
    found = HierarchicalClassifier.from_pretrained(tmp_path, loss=loss)
    x, target = torch.randn(3, 5), torch.arange(3)
    assert torch.equal(found(x, target).loss, saved(x, target).loss)


def test_files_of_different_models_are_refused(tmp_path: Path) -> None:
    """A hierarchy with the same number of classes in another order would permute the answers."""
    HierarchicalClassifier(5, tree()).save_pretrained(tmp_path / "one")
    HierarchicalClassifier(5, tree(PATHS[::-1])).save_pretrained(tmp_path / "other")
    other = (tmp_path / "other" / "hierarchy.npz").read_bytes()
    (tmp_path / "one" / "hierarchy.npz").write_bytes(other)
    with pytest.raises(ValueError, match="different models"):
        HierarchicalClassifier.from_pretrained(tmp_path / "one")
    config = (tmp_path / "other" / "config.json").read_bytes()
    (tmp_path / "one" / "config.json").write_bytes(config)
    with pytest.raises(RuntimeError, match="another hierarchy"):
        HierarchicalClassifier.from_pretrained(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("config.json", b"{", "is not JSON"),
        ("config.json", b"[]", "not written by save_pretrained"),
        ("config.json", b'{"format": 1, "in_features": 5}', "lacks bias"),
        ("config.json", b'{"format": 2}', "newer version"),
        ("model.safetensors", b"\xff" * 64, "damaged"),
        ("model.safetensors", b"", "damaged"),
        ("hierarchy.npz", b"PK", "damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, error: str) -> None:
    HierarchicalClassifier(5, tree()).save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=error):
        HierarchicalClassifier.from_pretrained(tmp_path)


def test_a_missing_directory_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        HierarchicalClassifier.from_pretrained(tmp_path / "nowhere")
    HierarchicalClassifier(5, tree()).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        HierarchicalClassifier.from_pretrained(tmp_path)


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        HierarchicalClassifier(5, tree()).save_pretrained(tmp_path)


def test_the_files_say_what_they_are(tmp_path: Path) -> None:
    HierarchicalClassifier(5, tree(), hace.HACELoss(tree(), 0.4)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["hierarchy"] == tree().digest
    assert config["loss"]["type"] == "HACELoss"
    assert config["loss"]["dilution"] == 0.4
