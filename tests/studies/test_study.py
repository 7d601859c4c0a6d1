"""The study's splits, wrong trees, statistics, file of results and page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hace

pytest.importorskip("pandas", reason="the tables of the study are made with pandas (extra 'study')")
pytest.importorskip("matplotlib", reason="the figures are made with matplotlib (extra 'study')")

from matplotlib.figure import Figure

from studies import memory, pictures, plan, report, tables
from studies.__main__ import run_quick
from studies.choose import choose, run_of
from studies.losses import LOSSES, TRIALS, rates
from studies.plan import Step, coarse, coarse_and_wrong, measure, search, trees
from studies.results import MOST_PROBABLE, Results, heights_name
from studies.run import Run, coarsened, execute, training_rows
from studies.runner import run_plan
from studies.statistics import Difference, holm, paired_difference
from studies.tables import Compared, Report, Rival
from studies.task import Task, split
from studies.tasks import TASKS, made_up
from studies.trees import likeness, wrong_tree

NUMBER = re.compile(r"(?<![\w.])[+−-]?\d+(?:,\d{3})*\.\d+")


@pytest.fixture(scope="module")
def task() -> Task:
    return made_up.load()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of a few stages of the plan on the made-up task."""
    folder = tmp_path_factory.mktemp("results")
    losses = ("ce", "hace")
    steps = [
        Step("made-up", "search", lambda t, r: search(t, r, losses)),
        Step("made-up", "measure", lambda t, r: measure(t, r, losses)),
        Step("made-up", "trees", lambda t, r: trees(t, r, (1,))),
        Step("made-up", "coarse", coarse),
        Step("made-up", "coarse, some wrong", coarse_and_wrong),
    ]
    run_plan(steps, folder)
    before = (folder / "made-up.csv").read_bytes()
    run_plan(steps, folder)
    assert (folder / "made-up.csv").read_bytes() == before, "a finished run was made again"
    return Results("made-up", folder)


def test_every_loss_has_as_many_trials() -> None:
    for loss in LOSSES.values():
        assert len(loss.grid) * len(rates(loss, 0.01, 0.1)) == TRIALS


def test_parts_of_a_split_share_nothing() -> None:
    parts = split(103, (0.2, 0.1))
    assert sorted(np.concatenate(parts)) == list(range(103))
    assert [len(part) for part in parts] == [21, 10, 72]


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(set(TASKS) - {"made-up", "icd10", "emoji"}))
def test_no_text_is_in_two_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def remember(
        name: str, tree: hace.Hierarchy, parts: list[tuple[list[str], object]], **_: object
    ) -> None:
        seen.extend(texts for texts, _ in parts)

    monkeypatch.setattr(Task, "of_texts", remember)
    try:
        TASKS[name]()
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(str(error))
    train, validation, test = (set(texts) for texts in seen)
    assert not train & test
    assert not train & validation
    assert not validation & test


def test_few_rows_of_each_class(task: Task) -> None:
    run = Run("made-up", "ce", "", 0.05, 0, per_class=2)
    rows = training_rows(run, task)
    counts = np.bincount(task.train.label[rows], minlength=task.tree.num_classes)
    np.testing.assert_array_equal(counts, np.minimum(task.train_counts(), 2))


def test_a_run_depends_on_its_description_alone(task: Task) -> None:
    run = Run("made-up", "hace", "d=0.7", 0.05, 3)
    a, b = (execute(run, task) for _ in range(2))
    np.testing.assert_array_equal(a.heights[MOST_PROBABLE], b.heights[MOST_PROBABLE])
    other = execute(replace(run, seed=4), task)
    assert (a.heights[MOST_PROBABLE] != other.heights[MOST_PROBABLE]).any()


def test_wrong_trees(task: Task) -> None:
    tree = task.tree
    assert likeness(tree, wrong_tree(tree, "true", 0)) == pytest.approx(1)
    found = [likeness(tree, wrong_tree(tree, f"swap {p}", 0)) for p in (10, 30, 100)]
    assert 1 > found[0] > found[1] > found[2]
    assert abs(found[2]) < 0.2
    swapped = wrong_tree(tree, "swap 100", 0)
    np.testing.assert_array_equal(swapped.parents, tree.parents)
    assert sorted(swapped.classes) == sorted(tree.classes)
    rewired = wrong_tree(tree, "rewire 50", 0)
    np.testing.assert_array_equal(rewired.depths, tree.depths)
    assert (rewired.parents != tree.parents).any()
    flatter = wrong_tree(tree, "drop 0", 0)
    assert flatter.depth == tree.depth - 1
    assert flatter.num_classes == tree.num_classes


def test_a_level_with_classes_keeps_them() -> None:
    tree = hace.Hierarchy.from_parents([-1, 0, 0, 1, 1, 2], classes=[1, 3, 4, 5])
    dropped = wrong_tree(tree, "drop 1", 0)
    assert dropped.num_classes == 4
    assert dropped.num_nodes == 5  # node 2 goes, and node 1 stays since it is a class
    np.testing.assert_array_equal(dropped.depths[dropped.classes], [1, 2, 2, 1])


def test_holm() -> None:
    # Holm 1979: 4 times the smallest, 3 times the next one but no less than that, and so on.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_interval_of_a_paired_difference() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0.5, 1, (5, 400))
    b = np.zeros_like(a)
    found = paired_difference(a, b)
    # Seeds and rows are independent here, so the true variance is one over their product.
    # Resampling the seeds adds it once more, and so does resampling the rows.
    assert found.value == pytest.approx(a.mean())
    assert found.low < a.mean() < found.high
    error = (found.high - found.low) / (2 * 1.96)
    by_rows = a.mean(0).std() / np.sqrt(400)
    assert by_rows < error < 2 * by_rows
    assert paired_difference(a, a).p == 1


def test_heights_agree_with_the_rows(results: Results) -> None:
    measured = [row for row in results if row["seed"] != "0"]
    assert measured
    for row in measured:
        heights = results.heights[heights_name(run_of(row), row["decision"])]
        assert 100 * (heights == 0).mean() == pytest.approx(float(row["test_top1"]), rel=1e-4)
        assert heights.mean() == pytest.approx(float(row["test_height"]), rel=1e-4)


def test_the_choice_is_the_best_on_validation(results: Results) -> None:
    chosen = choose(results, "hace")
    tried = [r for r in results if r["loss"] == "hace" and r["seed"] == "0"]
    assert len(tried) == TRIALS
    best = max(float(row["validation_top1"]) for row in tried)
    (row,) = [r for r in tried if float(r["rate"]) == chosen.rate
              and r["parameter"] == chosen.parameter]  # fmt: skip
    assert float(row["validation_top1"]) == best


def test_coarse_labels_help_where_few_are_fine(results: Results) -> None:
    rows = [row for row in results if row["coarse"] != "0" and row["decision"] == MOST_PROBABLE]
    top1 = {
        loss: np.mean([float(row["test_top1"]) for row in rows if row["loss"] == loss])
        for loss in ("ce", "hace")
    }
    assert top1["hace"] > top1["ce"]


@pytest.mark.thorough
def test_the_whole_plan_and_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plan, tables):
        monkeypatch.setattr(module, "SEEDS", (1, 2))
    run_quick(tmp_path)
    reports = report.load(tmp_path)
    names = {found[1] for found in report.MARKED.finditer(PAGE)} - {"memory", "published"}
    alone = {found[1] for found in report.MARKED.finditer(PAGE) if found[2] is None}
    for name in sorted(names):
        made = report.table(name, None if name in alone else "made-up", reports, [])
        assert len(made.splitlines()) > 2, name


def test_wrong_coarse_labels_are_others_of_the_same_depth(task: Task) -> None:
    run = Run("made-up", "hace", "d=0.7", 0.05, 1, coarse="80")
    rows = training_rows(run, task)
    kept, right = coarsened(rows, run, task)
    again, wrong = coarsened(rows, replace(run, coarse="80 wrong 50"), task)
    np.testing.assert_array_equal(kept, again)
    right, wrong = right.numpy(), wrong.numpy()
    is_coarse = right != task.tree.classes[task.train.label]
    changed = right != wrong
    assert not changed[~is_coarse].any()
    assert changed[is_coarse].mean() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(task.tree.depths[wrong], task.tree.depths[right])
    assert (task.tree.heights[wrong[is_coarse]] > 0).all()


def test_tables_and_figures_of_some_results(results: Results, tmp_path: Path) -> None:
    reports = [Report(results)]
    page = "<!-- studies: differences [made-up] -->\nold\n<!-- end -->\n"
    filled = report.filled(page, reports)
    assert "old" not in filled
    assert "| HACE |" in filled
    assert report.filled(filled, reports) == filled
    drawn = report.draw_all(reports, tmp_path)
    assert {f"{name}.png" for name in drawn} == {file.name for file in tmp_path.iterdir()}
    assert {"cost", "rates"} <= set(drawn)


def test_what_lies_far_beyond_the_others_is_an_arrow() -> None:
    def compared(name: str, value: float) -> Compared:
        rival = Rival(name, Run("made-up", "ce", "", 0.05, 0), MOST_PROBABLE)
        difference = Difference(value, value - 1, value + 1, 0.0)
        return Compared(rival, "smoothing", "top1", difference, 0.0)

    values = {"a": 2.0, "b": -3.0, "c": -56.2, "d": 0.0, "e": 1.0, "f": 0.5}
    ax = Figure().subplots()
    pictures.draw_differences(ax, [compared(*one) for one in values.items()], list(values))
    low, high = ax.get_xlim()
    assert -7 < low < -4
    assert 3 < high < 7
    assert [text.get_text() for text in ax.texts] == ["−56.2"]


# ---- the page quotes what the files hold ----

PAGE = report.PAGE.read_text(encoding="utf-8")
README = (report.PAGE.parents[1] / "README.md").read_text(encoding="utf-8")


def tables_of_the_page() -> str:
    return "\n".join(found[0] for found in report.MARKED.finditer(PAGE))


def quoted(text: str) -> set[str]:
    """The numbers with a decimal point in a text, without their signs."""
    return {number.lstrip("+−-") for number in NUMBER.findall(text)}


def test_prose_quotes_its_tables_alone() -> None:
    prose = report.MARKED.sub("", PAGE)
    assert quoted(prose) <= quoted(tables_of_the_page())


def test_readme_quotes_the_page() -> None:
    section = README.split("## What it is good for")[1].split("\n## ")[0].split("### The demo")[0]
    assert quoted(section)
    assert quoted(section) <= quoted(tables_of_the_page())


@pytest.mark.thorough
def test_tables_of_the_page_are_made_from_the_results() -> None:
    assert report.filled(PAGE, report.load(), memory.load()) == PAGE


def test_means_of_the_page_are_those_of_the_results() -> None:
    """The first row of tables of differences is right, computed without the tables' own code."""
    for task in ("soc", "hpo"):
        results = Results(task)
        run = choose(results, "ce")
        rows = [
            row
            for row in results
            if row["seed"] != "0" and run_of(row) == replace(run, seed=int(row["seed"]))
        ]
        mean = np.mean([float(r["test_top1"]) for r in rows if r["decision"] == MOST_PROBABLE])
        block = PAGE.split(f"<!-- studies: differences [{task}] -->")[1]
        (line,) = [x for x in block.split("<!-- end -->")[0].splitlines()
                   if x.startswith("| cross-entropy |")]  # fmt: skip
        assert line.split("|")[3].strip() == f"{mean:.1f}"
