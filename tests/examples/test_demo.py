"""The demo on one chapter, end to end."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import pytest
import torch

import hace

pytest.importorskip("simple_icd_10_cm", reason="the demo needs simple-icd-10-cm (extra 'demo')")
pytest.importorskip("rich", reason="the demo needs rich (extra 'demo')")
pytest.importorskip("matplotlib", reason="the demo needs matplotlib (extra 'demo')")

from rich.console import Console

from examples.icd10 import __main__ as demo
from examples.icd10 import data, tune
from examples.icd10.answers import answer, asked, tell
from examples.icd10.features import Featurizer
from examples.icd10.rates import load_rates
from examples.icd10.recipes import RECIPES
from examples.icd10.train import SCORES, Schedule, Trained, train


def test_quick_demo(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    demo.main(["--quick", "--out", str(tmp_path), "--phrase", "sore throat"])
    printed = capsys.readouterr().out
    assert "“sore throat”" in printed.split("answered by HACE d=0.5")[1]
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed  # nothing is cut off
    # Without a terminal, there is a line per training.
    assert len(re.findall(r"^trained .*: [\d,]+ steps, \d+ s$", printed, re.M)) == len(RECIPES)
    for recipe in RECIPES:
        assert recipe.name.split(",")[0] in printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["rows"]) == {recipe.key for recipe in RECIPES}
    assert all(math.isfinite(row[name]) for row in results["rows"].values() for name in SCORES)
    assert (tmp_path / "mistakes.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def trained() -> tuple[data.MedicalCodes, Trained]:
    codes = data.load("10")
    recipe = next(recipe for recipe in RECIPES if recipe.key == demo.ASKED)
    return codes, train(codes, recipe, 0.02, Schedule(epochs=6))


def test_answers_are_as_coarse_as_the_coder_is_unsure(trained):
    codes, coder = trained
    answers = {}
    for text in (codes.titles[0], "pneumonia", "qqq zzz"):
        logits = coder.logits([text])[0]
        probability = hace.functional.node_log_probs(logits, codes.tree).exp()
        told = [line.plain for line in answer(coder, codes, text)]
        assert told[0] == f"“{text}”"
        enough = torch.nonzero(probability >= 0.5)[:, 0].tolist()
        deepest = max(enough, key=lambda node: (codes.tree.depths[node], probability[node]))
        if deepest != codes.tree.roots[0]:
            assert codes.codes[deepest] in told[1]
            assert codes.titles[deepest] in told[1]
            assert f"({int(100 * probability[deepest])} %)" in told[1]
        is_code = deepest < codes.tree.num_classes
        assert len(told) == (2 if is_code else 5)
        answers[text] = is_code
    assert not answers["qqq zzz"]


def test_an_answer_without_a_probable_chapter_tells_the_likeliest() -> None:
    tree = hace.Hierarchy.from_paths(["all/a/0", "all/a/1", "all/b/2", "all/c/3"])
    names = list(tree.names)
    none = data.Phrases([], np.zeros(0, dtype=np.int64))
    codes = data.MedicalCodes(tree, names, names, none, none, none, none)

    class Unsure:
        def logits(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[0.248, 0.248, 0.304, 0.2]]).log()

    told = [line.plain.split() for line in answer(Unsure(), codes, "stone")]
    assert [line[0] for line in told[2:4]] == ["all/a", "all/b"]
    assert [line[-2:] for line in told[2:4]] == [["(49", "%)"], ["(30", "%)"]]
    assert told[4][:2] == ["perhaps", "all/b/2"]
    assert len(told) == 7


def test_a_long_answer_goes_on_below_its_beginning() -> None:
    tree = hace.Hierarchy.from_paths(["all/a/0", "all/a/1"])
    names = ["0", "word " * 20, *tree.names[2:]]
    none = data.Phrases([], np.zeros(0, dtype=np.int64))
    codes = data.MedicalCodes(tree, names, names, none, none, none, none)

    class Sure:
        def logits(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[0.1, 0.9]]).log()

    console = Console(file=io.StringIO(), width=60)
    tell(console, Sure(), codes, ["stone"])
    wrapped = [line for line in console.file.getvalue().splitlines() if "word" in line]
    assert len(wrapped) > 1
    assert {len(line) - len(line.lstrip()) for line in wrapped} == {2}


def test_phrases_are_asked_for_until_an_empty_line(trained, monkeypatch):
    codes, coder = trained
    typed = iter(["sore throat", "  cough ", ""])
    monkeypatch.setattr("builtins.input", lambda *prompt: next(typed))
    console = Console(file=io.StringIO(), width=80)
    tell(console, coder, codes, asked(console))
    assert re.findall("“(.*)”", console.file.getvalue()) == ["sore throat", "cough"]

    def no_more(*prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", no_more)
    assert list(asked(console)) == []


def test_tuning_that_is_stopped_leaves_the_rates(tmp_path, monkeypatch):
    path = tmp_path / "rates.json"
    path.write_text("as it was")

    def stopped(codes, recipe, *rest):
        if recipe is not RECIPES[0]:
            raise KeyboardInterrupt
        return train(codes, recipe, *rest)

    monkeypatch.setattr(tune, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune.main(["--quick", "--out", str(path), "--so-far", str(tmp_path / "so-far.json")])
    assert path.read_text() == "as it was"
    assert list(load_rates(tmp_path / "so-far.json")) == [RECIPES[0].key]


@pytest.mark.thorough
def test_quick_tune_writes_rates_that_the_demo_can_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rates.json"
    monkeypatch.setenv("COLUMNS", "80")
    tune.main(["--quick", "--out", str(path), "--so-far", str(tmp_path / "so-far.json")])
    assert load_rates(path).keys() == load_rates().keys() == {recipe.key for recipe in RECIPES}
    printed = capsys.readouterr().out
    assert set(SCORES) <= set(printed.split())  # no heading is cut off
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.fixture(scope="module")
def codes() -> data.MedicalCodes:
    return data.load()


def test_the_whole_classification(codes):
    tree = codes.tree
    assert (tree.num_nodes, tree.num_classes, tree.depth) == (47_189, 36_343, 7)
    terms = [codes.test, codes.validation, codes.coarse]
    assert len(codes.train) - tree.num_classes + sum(map(len, terms)) == 13_487
    assert len(codes.test) == data.TEST_TERMS
    assert len(codes.validation) == data.VALIDATION_TERMS
    asthma = tree.index("ICD-10-CM/chapter 10/section J40-J4A/J45")
    assert (codes.codes[asthma], codes.titles[asthma]) == ("J45", "Asthma")


def test_splits_do_not_overlap_and_stand_at_the_right_nodes(codes):
    def rows(phrases: data.Phrases) -> set[tuple[str, int]]:
        return set(zip(phrases.texts, phrases.nodes.tolist(), strict=True))

    assert not rows(codes.test) & rows(codes.train)
    assert not rows(codes.test) & rows(codes.validation)
    assert not rows(codes.validation) & rows(codes.train)
    fine = (codes.train, codes.validation, codes.test)
    assert all(phrases.nodes.max() < codes.tree.num_classes for phrases in fine)
    assert codes.coarse.nodes.min() >= codes.tree.num_classes


def test_features_are_unit_rows_of_what_training_saw():
    bags = Featurizer(["acute asthma", "chronic asthma"])(["Acute ASTHMA!", "xyzzyx", ""])
    first, none, empty = (bags.weight[a:b] for a, b in zip(bags.ptr, bags.ptr[1:], strict=False))
    assert (first**2).sum() == pytest.approx(1)
    assert not none.any()
    assert len(empty) == 0
