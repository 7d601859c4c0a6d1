"""The tables of docs/study.md, from the results alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from .choose import choose, trials
from .losses import DILUTIONS, LOSSES
from .plan import CORE, FEW, FIXED, LONG, MORE, REST, SEEDS, SHUFFLED, WINNERS
from .results import LEAST_COST, MOST_PROBABLE, RUN, TEXT, Results, heights_name
from .run import Run
from .statistics import DRAWS, LEVEL, Difference, FloatArray, holm, paired_difference

RIVALS = (*CORE, *FIXED, *MORE, *SHUFFLED, *REST)
BASELINES = ("ce", "smoothing")
OUTCOMES = ("top1", "height")

TITLES = {
    "soc": "Job title → SOC unit group",
    "hpo": "Phrase → phenotype term",
    "wordnet": "Gloss → hypernym",
    "icd10": "Phrase → ICD-10 category",
    "glycan": "Glycan → species",
    "emoji": "Picture → emoji",
    "made-up": "Made-up",
}


@dataclass(frozen=True)
class Rival:
    """A loss as it was chosen, together with a decision rule."""

    name: str
    run: Run
    decision: str

    def runs(self) -> list[Run]:
        return [replace(self.run, seed=seed) for seed in SEEDS]


@dataclass(frozen=True)
class Compared:
    """A rival compared with a baseline in one outcome."""

    rival: Rival
    baseline: str
    outcome: str
    difference: Difference
    corrected: float

    @property
    def verdict(self) -> str:
        """Whether the rival is "better", "worse" or a "tie"."""
        if self.corrected >= LEVEL:
            return "tie"
        gained = self.difference.value > 0
        return "better" if gained == (self.outcome == "top1") else "worse"


class Report:
    """Everything that the page quotes about one task."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.frame = pd.DataFrame(results.rows)
        for column in self.frame.columns.difference([*RUN, *TEXT]):
            self.frame[column] = self.frame[column].astype("float64")  # "nan" too
        self._compared: dict[tuple[int, int], list[Compared]] = {}

    def rivals(self, per_class: int = 0, length: int = 1) -> list[Rival]:
        """The losses that have a run with every seed, and cross-entropy decided by least cost."""
        found = []
        for name in RIVALS:
            try:
                run = choose(self.results, name, per_class=per_class, length=length)
            except LookupError:
                continue
            rival = Rival(LOSSES[name].title, run, MOST_PROBABLE)
            if all(r in self.results for r in rival.runs()):
                found.append(rival)
                if name == "ce":
                    found.append(Rival("cross-entropy, least cost", run, LEAST_COST))
        return found

    def values(self, rival: Rival, outcome: str, runs: list[Run] | None = None) -> FloatArray:
        """An outcome for every seed and test row: (seeds, rows)."""
        heights = np.stack(
            [
                self.results.heights[heights_name(run, rival.decision)]
                for run in runs or rival.runs()
            ]
        )
        return 100.0 * (heights == 0) if outcome == "top1" else heights.astype(np.float64)

    def compared(self, per_class: int = 0, length: int = 1) -> list[Compared]:
        """Every rival compared with every baseline, corrected for the number of comparisons."""
        key = (per_class, length)
        if key not in self._compared:
            rivals = self.rivals(per_class, length)
            by_loss = {r.run.loss: r for r in rivals if r.decision == MOST_PROBABLE}
            todo = [
                (rival, base, outcome)
                for rival in rivals
                for base in BASELINES
                for outcome in OUTCOMES
                if base in by_loss
                and rival != by_loss[base]
                # The two baselines are compared with each other only once.
                and (rival != by_loss.get("ce") or base == "ce")
            ]
            differences = [
                paired_difference(self.values(r, o), self.values(by_loss[b], o)) for r, b, o in todo
            ]
            corrected = holm([d.p for d in differences])
            self._compared[key] = [
                Compared(*which, d, p)
                for which, d, p in zip(todo, differences, corrected, strict=True)
            ]
            self._compared[key] += [
                replace(
                    c, rival=by_loss["ce"], baseline="smoothing", difference=c.difference.turned()
                )
                for c in self._compared[key]
                if c.rival == by_loss.get("smoothing")
            ]
        return self._compared[key]

    def figures(self, rival: Rival) -> pd.DataFrame:
        """The rows of the results of a rival's runs."""
        return self.rows_of(rival.runs(), rival.decision)

    def rows_of(self, runs: list[Run], decision: str = MOST_PROBABLE) -> pd.DataFrame:
        """The rows of the results of the given runs; runs that have none are left out."""
        keys = {run.key() for run in runs}
        columns = list(RUN)
        is_one = [tuple(row) in keys for row in self.frame[columns].itertuples(index=False)]
        return self.frame[np.array(is_one) & (self.frame["decision"] == decision)]


def differences(report: Report, per_class: int = 0, length: int = 1) -> str:
    """Table of the primary outcomes: means, and paired differences to both baselines."""
    compared = {
        (c.rival.name, c.baseline, c.outcome): c for c in report.compared(per_class, length)
    }
    lines = []
    for rival in report.rivals(per_class, length):
        rows = report.figures(rival)
        cells = [rival.name, _chosen(rival.run)]
        for outcome, digits in (("top1", 1), ("height", 2)):
            cells.append(f"{rows[f'test_{outcome}'].mean():.{digits}f}")
            for base in BASELINES:
                cells.append(_difference(compared.get((rival.name, base, outcome)), digits + 1))
        lines.append(cells)
    head = ["loss", "chosen", "top-1", "to CE", "to smoothing", "height", "to CE", "to smoothing"]
    return markdown_table(head, lines, left=2)


def figures(report: Report, per_class: int = 0, length: int = 1) -> str:
    """Table of the secondary outcomes: means over the seeds."""
    columns = {
        "top-5": ("top5", 1),
        "severity": ("severity", 2),
        "edges": ("hops", 2),
        "hF1": ("hf1", 1),
        "siblings": ("siblings", 1),
        "calibration error": ("ece", 1),
        "macro top-1": ("macro", 1),
        "rare": ("tail", 1),
        "middle": ("middle", 1),
        "frequent": ("head", 1),
    }
    lines = []
    for rival in report.rivals(per_class, length):
        rows = report.figures(rival)
        levels = np.array([[float(x) for x in text.split("|")] for text in rows["test_levels"]])
        lines.append(
            [
                rival.name,
                *(f"{rows[f'test_{name}'].mean():.{digits}f}" for name, digits in columns.values()),
                " ".join(f"{share:.0f}" for share in levels.mean(0)),
            ]
        )
    return markdown_table(["loss", *columns, "right at each level"], lines)


@dataclass(frozen=True)
class OnTree:
    """A loss that was given some tree, compared with cross-entropy with the same seeds."""

    tree: str
    likeness: float
    seeds: int
    means: dict[str, float]
    to_ce: dict[str, Difference]

    @property
    def likeness_text(self) -> str:
        """The likeness in digits; empty for a DAG, where two classes have no single lowest
        common ancestor."""
        return "" if np.isnan(self.likeness) else f"{self.likeness:.2f}".replace("-", "−")


def on_trees(report: Report, loss: str, draws: int = DRAWS) -> list[OnTree]:
    """A loss as it was chosen, on every tree that it was given, those most like the truth first."""
    try:
        chosen, base = choose(report.results, loss), choose(report.results, "ce")
    except LookupError:
        return []
    found = []
    for name in report.frame["tree"].unique():
        runs = [replace(chosen, tree=str(name), seed=seed) for seed in SEEDS]
        runs = [run for run in runs if run in report.results]
        if not runs:
            continue
        rows = report.rows_of(runs)
        rival = Rival(str(name), chosen, MOST_PROBABLE)
        bases = [replace(base, seed=run.seed) for run in runs]
        to_ce = {
            outcome: paired_difference(
                report.values(rival, outcome, runs), report.values(rival, outcome, bases), draws
            )
            for outcome in OUTCOMES
        }
        means = {
            outcome: float(rows[f"test_{outcome}"].mean()) for outcome in (*OUTCOMES, "severity")
        }
        likeness = float(rows["tree_likeness"].mean())
        found.append(OnTree(str(name), likeness, len(runs), means, to_ce))
    return sorted(found, key=lambda on: -2.0 if np.isnan(on.likeness) else -round(on.likeness, 2))


def wrong_trees(report: Report) -> str:
    """Table of HACE on wrong trees: how much of the true tree is left, and the outcomes."""
    found = on_trees(report, "hace")
    if len(found) < 3:
        return ""
    lines = [
        [
            on.tree,
            on.likeness_text,
            str(on.seeds),
            f"{on.means['top1']:.1f}",
            _interval(on.to_ce["top1"], 2),
            f"{on.means['height']:.2f}",
            _interval(on.to_ce["height"], 3),
            f"{on.means['severity']:.2f}",
        ]
        for on in found
    ]
    head = ["tree", "likeness", "seeds", "top-1", "to CE", "height", "to CE", "severity"]
    return markdown_table(head, lines)


def winners_on_wrong_trees(report: Report) -> str:
    """The same table for the losses that gain most from a right tree."""
    by_loss = {loss: {on.tree: on for on in on_trees(report, loss)} for loss in WINNERS}
    lines = []
    for tree, one in by_loss[WINNERS[0]].items():
        cells = [tree, one.likeness_text, str(one.seeds)]
        for loss in WINNERS:
            on = by_loss[loss].get(tree)
            cells += ["", ""] if on is None else [
                _interval(on.to_ce["top1"], 2), _interval(on.to_ce["height"], 3)
            ]  # fmt: skip
        lines.append(cells)
    head = ["tree", "likeness", "seeds"]
    for loss in WINNERS:
        head += [f"{LOSSES[loss].title}: top-1, to CE", "height, to CE"]
    return markdown_table(head, lines) if len(lines) > 2 else ""


def dilutions(report: Report) -> str:
    """Table of HACE with every d, each at its best rate."""
    shown = (("top1", 1), ("top5", 1), ("height", 2), ("severity", 2), ("hf1", 1))
    lines = []
    for parameter in DILUTIONS:
        try:
            run = choose(report.results, "hace", parameter=parameter)
        except LookupError:
            return ""
        runs = [replace(run, seed=seed) for seed in SEEDS]
        if any(r not in report.results for r in runs):
            return ""
        rows = report.rows_of(runs)
        lines.append(
            [
                parameter,
                f"{run.rate:g}",
                *(f"{rows[f'test_{name}'].mean():.{digits}f}" for name, digits in shown),
            ]
        )
    return markdown_table(["HACE", "rate", "top-1", "top-5", "height", "severity", "hF1"], lines)


def few_samples(report: Report) -> str:
    """Table of the primary outcomes by the number of training rows per class."""
    lines = []
    for number in (*FEW, 0):
        compared = {(c.rival.name, c.baseline, c.outcome): c for c in report.compared(number)}
        for rival in report.rivals(number):
            if rival.run.loss not in CORE:
                continue
            rows = report.figures(rival)
            cells = [str(number or "all"), rival.name, _chosen(rival.run)]
            for outcome, digits in (("top1", 1), ("height", 2)):
                cells.append(f"{rows[f'test_{outcome}'].mean():.{digits}f}")
                cells.append(_difference(compared.get((rival.name, "ce", outcome)), digits + 1))
            lines.append(cells)
    if len({cells[0] for cells in lines}) < 2:
        return ""
    head = ["rows per class", "loss", "chosen", "top-1", "to CE", "height", "to CE"]
    return markdown_table(head, lines, left=3)


def coarse(report: Report) -> str:
    """Table for mostly coarse labels, some of them wrong: HACE, and cross-entropy without them."""
    rows = report.frame[
        (report.frame["coarse"] != "0") & (report.frame["decision"] == MOST_PROBABLE)
    ]
    shown = (("top1", 1), ("top5", 1), ("height", 2), ("severity", 2))
    lines = []
    for (labels, loss), group in rows.groupby(["coarse", "loss"]):
        wrong = str(labels).partition(" wrong ")[2]
        lines.append(
            [
                LOSSES[str(loss)].title,
                "unused" if loss == "ce" else f"{wrong or 0} % wrong",
                str(len(group)),
                *(f"{group[f'test_{name}'].mean():.{digits}f}" for name, digits in shown),
            ]
        )
    head = ["loss", "coarse labels", "seeds", "top-1", "top-5", "height", "severity"]
    return markdown_table(head, lines, left=2) if lines else ""


def by_test(reports: list[Report]) -> str:
    """Table of what choosing on the test rows would have concluded from the same trials, one seed.

    The last columns have HACE with d = 0.7 at cross-entropy's rate / d, which is the rule of its
    paper, or at the nearest rate that was tried.
    """
    lines = []
    for report in reports:
        try:
            best = {
                name: choose(report.results, name, by="test_top1")
                for name in ("ce", "smoothing", "hace")
            }
        except LookupError:
            continue
        top = {
            name: float(report.rows_of([run])["test_top1"].iloc[0]) for name, run in best.items()
        }
        wanted = best["ce"].rate / 0.7
        tried = trials(report.results, "hace-fixed")
        by_rule = ["", ""]
        if tried:
            nearest = min(tried, key=lambda row: abs(np.log(float(row["rate"]) / wanted)))
            found = float(nearest["test_top1"])
            by_rule = [f"{found:.1f} ({nearest['rate']})", _signed(found - top["ce"], 1)]
        lines.append(
            [
                TITLES[report.results.task],
                f"{top['ce']:.1f} ({best['ce'].rate:g})",
                f"{top['smoothing']:.1f}",
                f"{top['hace']:.1f}",
                _signed(top["hace"] - top["ce"], 1),
                _signed(top["hace"] - top["smoothing"], 1),
                *by_rule,
            ]
        )
    head = [
        "task", "cross-entropy (rate)", "+ smoothing", "HACE", "HACE − CE", "HACE − smoothing",
        "HACE d=0.7 at rate / d", "− CE",
    ]  # fmt: skip
    return markdown_table(head, lines)


def verdicts(reports: list[Report]) -> str:
    """Table of how often each loss is better, a tie and worse, over the tasks."""
    lines = []
    names: dict[str, None] = {}
    for report in reports:
        names.update(dict.fromkeys(rival.name for rival in report.rivals()))
    for name in names:
        cells = [name]
        for outcome in OUTCOMES:
            for base in BASELINES:
                said = [
                    c.verdict
                    for report in reports
                    for c in report.compared()
                    if (c.rival.name, c.baseline, c.outcome) == (name, base, outcome)
                ]
                cells.append(
                    " / ".join(str(said.count(v)) for v in ("better", "tie", "worse"))
                    if said
                    else ""
                )
        lines.append(cells)
    head = ["loss", "top-1, to CE", "top-1, to smoothing", "height, to CE", "height, to smoothing"]
    return markdown_table(head, lines)


def what_was_run(reports: list[Report]) -> str:
    """Table of runs, processor time and comparisons per task."""
    lines = []
    for report in reports:
        rows = report.frame[report.frame["decision"] == MOST_PROBABLE]
        compared = report.compared()
        lines.append(
            [
                TITLES[report.results.task],
                str(len(rows)),
                str((rows["seed"] == "0").sum()),
                f"{rows['run_seconds'].sum() / 60:.0f}",
                str(sum(c.rival.name != LOSSES["ce"].title for c in compared)),
            ]
        )
    return markdown_table(["task", "runs", "of them trials", "minutes", "comparisons"], lines)


def _chosen(run: Run) -> str:
    return f"{run.parameter}, {run.rate:g}" if run.parameter else f"{run.rate:g}"


def _difference(compared: Compared | None, digits: int) -> str:
    if compared is None:
        return ""
    text = _interval(compared.difference, digits)
    return text if compared.verdict == "tie" else f"**{text}**"


def _interval(d: Difference, digits: int) -> str:
    low, high = _signed(d.low, digits), _signed(d.high, digits)
    return f"{_signed(d.value, digits)} ({low}, {high})"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def markdown_table(head: list[str], lines: list[list[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


__all__ = [
    "LONG",
    "RIVALS",
    "TITLES",
    "Compared",
    "Report",
    "Rival",
    "by_test",
    "coarse",
    "differences",
    "dilutions",
    "few_samples",
    "figures",
    "markdown_table",
    "verdicts",
    "what_was_run",
    "winners_on_wrong_trees",
    "wrong_trees",
]
