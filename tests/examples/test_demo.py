"""The demo on one chapter, end to end."""

from __future__ import annotations

import json
import math

import pytest

pytest.importorskip("simple_icd_10_cm", reason="the demo needs simple-icd-10-cm (extra 'demo')")
pytest.importorskip("rich", reason="the demo needs rich (extra 'demo')")
pytest.importorskip("matplotlib", reason="the demo needs matplotlib (extra 'demo')")

from examples.icd10 import __main__ as demo
from examples.icd10 import data, tune
from examples.icd10.features import Featurizer
from examples.icd10.rates import load_rates
from examples.icd10.recipes import RECIPES
from examples.icd10.train import SCORES


def test_quick_demo(tmp_path, capsys):
    demo.main(["--quick", "--out", str(tmp_path), "--phrase", "sore throat"])
    printed = capsys.readouterr().out
    assert "sore throat" in printed
    for recipe in RECIPES:
        assert recipe.name.split(",")[0] in printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["rows"]) == {recipe.key for recipe in RECIPES}
    assert all(math.isfinite(row[name]) for row in results["rows"].values() for name in SCORES)
    assert (tmp_path / "mistakes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.thorough
def test_quick_tune_writes_rates_that_the_demo_can_read(tmp_path):
    path = tmp_path / "rates.json"
    tune.main(["--quick", "--out", str(path)])
    assert load_rates(path).keys() == load_rates().keys() == {recipe.key for recipe in RECIPES}


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
