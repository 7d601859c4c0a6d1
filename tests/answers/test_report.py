"""`hace.report` agrees with the single metrics, and works as a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answers_oracle import Picture, hierarchy_of
from shapes import DAGS, TREES

import hace
from hace import metrics
from hace.__main__ import main


def rows(tree: hace.Hierarchy) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(40, tree.num_classes), torch.randint(tree.num_classes, (40,))


@pytest.mark.parametrize("name", ["inner classes", "caterpillar", "flat"])
def test_figures_of_logits(name: str, rng: np.random.Generator) -> None:
    tree = hierarchy_of(TREES[name](rng))
    logits, target = rows(tree)
    pred = hace.predict(logits, tree)
    figures = hace.report(logits, target, tree).figures
    expected = {
        "accuracy": metrics.accuracy(pred, target, tree),
        "severity of mistakes, LCA height": metrics.mistake_severity(pred, target, tree),
        "severity of mistakes, LCA depth": metrics.mistake_severity(
            pred, target, tree, distance="depth"
        ),
        "mean distance, edges": metrics.mean_distance(pred, target, tree, distance="hops"),
        "hierarchical F1": metrics.hierarchical_f1(pred, target, tree),
        "sibling accuracy": metrics.sibling_accuracy(pred, target, tree),
        "top-5 accuracy": metrics.top_k_accuracy(logits, target, tree, 5),
        "area under the operating curve": metrics.operating_curve(logits, target, tree).area(),
        "accuracy at depth 0": metrics.level_accuracy(pred, target, tree, 0),
        "calibration error at depth 0": metrics.level_calibration_error(logits, target, tree)[0],
    }
    for figure, value in expected.items():
        assert figures[figure] == pytest.approx(value.item(), nan_ok=True), figure


def test_answers_that_are_nodes(rng: np.random.Generator) -> None:
    tree = hierarchy_of(TREES["tree"](rng))
    logits, target = rows(tree)
    target[:5] = -100
    node = hace.decode.deepest_node(logits, tree, 0.9)
    found = hace.report(node, target, tree, pred_space="nodes")
    assert found.num_rows == 35
    expected = metrics.coverage(node, target, tree, pred_space="nodes")
    assert found.figures["coverage"] == pytest.approx(expected.item())
    assert "top-5 accuracy" not in found.figures


def test_where_mistakes_begin(rng: np.random.Generator) -> None:
    """A mistake begins at the highest node that is above the truth and not above the answer."""
    shape = TREES["inner classes"](rng)
    tree, p = hierarchy_of(shape), Picture(shape)
    logits, target = rows(tree)
    begins: dict[int, int] = {}
    for a, b in zip(hace.predict(logits, tree).tolist(), target.tolist(), strict=True):
        above = p.above(p.of_class[b]) - p.above(p.of_class[a])
        if above:
            node = p.node(min(above, key=lambda point: p.depths[point]))
            begins[node] = begins.get(node, 0) + 1
    found = hace.report(logits, target, tree, worst=1_000).worst
    assert {name: wrong for name, _, wrong in found} == {
        f"node {node}": wrong for node, wrong in begins.items()
    }


@pytest.mark.parametrize("name", DAGS)
def test_dags(name: str, rng: np.random.Generator) -> None:
    dag = hierarchy_of(DAGS[name](rng))
    logits, target = rows(dag)
    found = hace.report(logits, target, dag)
    assert found.figures["accuracy"] == (hace.predict(logits, dag) == target).float().mean()
    assert not any("at depth" in name for name in found.figures)


def test_as_text_and_json() -> None:
    tree = hace.Hierarchy.from_paths(["animal/dog", "animal/cat", "vehicle/car"])
    found = hace.report(torch.tensor([1, 2, 2]), torch.tensor([0, 0, 2]), tree)
    assert found.figures["accuracy at depth 0"] == pytest.approx(2 / 3)
    text = str(found)
    assert "accuracy at depth 0" in text
    assert "66.7 %" in text
    assert "animal: 1 of 2 rows" in text
    right = hace.report(torch.tensor([0]), torch.tensor([0]), tree)
    assert right.to_dict()["figures"]["severity of mistakes, LCA height"] is None
    assert json.loads(json.dumps(right.to_dict()))["rows"] == 1
    assert "–" in str(right)


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    console = pytest.importorskip("rich.console", reason="rich is not installed")
    tree = hace.Hierarchy.from_paths(["animal/dog", "animal/cat", "vehicle/car"])
    console.Console(width=100).print(hace.report(torch.tensor([1]), torch.tensor([0]), tree))
    assert "hierarchical F1" in capsys.readouterr().out


def test_the_command(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = hierarchy_of(TREES["tree"](rng))
    logits, target = rows(tree)
    files = [str(tmp_path / name) for name in ("tree.npz", "logits.npy", "target.pt")]
    tree.save(files[0])
    np.save(files[1], logits.numpy())
    torch.save(target, files[2])
    assert main(["report", *files, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = hace.report(logits, target, tree).to_dict()
    assert told["figures"] == pytest.approx(expected["figures"])
    assert main(["report", *files]) == 0
    assert "hierarchical F1" in capsys.readouterr().out
    assert main(["report", files[0], files[2], files[1]]) == 1
    assert "error:" in capsys.readouterr().err


def test_pred_space_is_for_answers(rng: np.random.Generator) -> None:
    tree: Any = hierarchy_of(TREES["flat"](rng))
    with pytest.raises(ValueError, match="pred_space"):
        hace.report(*rows(tree), tree, pred_space="nodes")
