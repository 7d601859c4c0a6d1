"""Each recipe runs, and learns what there is to learn."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
#: Packages that a recipe imports and the test extra does not install.
NEEDS = {
    "accelerate_loop": ["accelerate"],
    "lightning_module": ["lightning"],
    "onnx_export": ["onnx", "onnxruntime", "onnxscript"],
    "timm_finetuning": ["timm"],
    "transformers_trainer": ["transformers", "accelerate"],
}


def run(name: str, *arguments: Any, **options: Any) -> Any:
    for library in NEEDS.get(name, ()):
        pytest.importorskip(library)
    return importlib.import_module(f"examples.recipes.{name}").main(*arguments, **options)


def test_each_recipe_is_short_and_has_a_test() -> None:
    found = {path.stem for path in RECIPES.glob("*.py")} - {"__init__", "data"}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert found <= tested
    for path in RECIPES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path


def test_training_loop() -> None:
    figures = run("training_loop")
    assert figures["accuracy"] > 0.5  # of 8 classes
    assert figures["severity"] < 2.6  # mistakes between kinds of things have 3


def test_segmentation() -> None:
    figures = run("segmentation")
    assert figures["exact"] > 0.6
    assert figures["sure node on the path"] > figures["exact"]


def test_linear_probe() -> None:
    figures = run("linear_probe")
    assert figures["accuracy"] > 0.7
    assert figures["severity"] < 2


@pytest.mark.thorough
def test_accelerate_loop() -> None:
    assert run("accelerate_loop")["accuracy"] > 0.7


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_transformers_trainer() -> None:
    assert run("transformers_trainer")["eval_accuracy"] > 0.7


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_lightning_module(tmp_path: Path) -> None:
    figures = run("lightning_module", default_root_dir=tmp_path, enable_progress_bar=False)
    assert figures["accuracy"] > 0.7
    assert figures["accuracy at depth 0"] > figures["accuracy at depth 2"]
    module = importlib.import_module("examples.recipes.lightning_module")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    loaded = module.Classifier.load_from_checkpoint(checkpoint)  # the hierarchy comes with it
    assert loaded.hparams.hierarchy == module.tree()


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_timm_finetuning() -> None:
    assert run("timm_finetuning", [])["accuracy"] > 0.3


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_onnx_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe itself compares the answers of both models."""
    run("onnx_export", ["--out", str(tmp_path / "classifier.onnx")])
    assert (tmp_path / "classifier.onnx").stat().st_size > 1000
    answers = capsys.readouterr().out.splitlines()[-7:]
    assert all(answer.split("/")[0] in ("animal", "vehicle") for answer in answers)
