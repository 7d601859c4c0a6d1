"""What the demo prints and draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from hace import metrics

from .data import LEVELS, MedicalCodes
from .recipes import Recipe
from .train import SCORES, Trained

matplotlib.use("Agg")

COLORS = ("#b0b7c3", "#6b7686", "#7fb3e6", "#2f7fd1", "#12467f")


@dataclass(frozen=True)
class Row:
    """One row of the table: the trained coder and its answers to the test phrases."""

    trained: Trained
    rate: float
    best: Tensor  # (phrases, TOP) labels
    figures: dict[str, float]

    @property
    def recipe(self) -> Recipe:
        return self.trained.recipe


def score_table(rows: list[Row], codes: MedicalCodes) -> Table:
    """The figures of every row; the best of a column in bold."""
    title = f"{len(codes.test):,} held-out phrases, {codes.tree.num_classes:,} codes"
    table = figure_table(title, "loss", *SCORES)
    best = {name: max(row.figures[name] for row in rows) for name in SCORES}
    best["severity"] = min(row.figures["severity"] for row in rows)
    for row in rows:
        table.add_row(
            row.recipe.name,
            *(
                _bold(figure(name, row.figures[name]), row.figures[name] == best[name])
                for name in SCORES
            ),
        )
    return table


def time_table(rows: list[Row]) -> Table:
    """The rate of every row, and how long its training took."""
    table = figure_table("Trainings", "loss", "rate", "seconds", "of them in the loss")
    for row in rows:
        seconds = (row.trained.seconds, row.trained.loss_seconds)
        table.add_row(row.recipe.name, f"{row.rate:g}", *(f"{s:.1f}" for s in seconds))
    return table


def difference_table(rows: list[Row], codes: MedicalCodes) -> Table:
    """HACE against cross-entropy, and HACE with the coarse phrases against HACE without.

    With standard errors over the phrases; a difference beyond two is in colour, green for better.
    """
    pairs = [(a, b) for b in rows for a in rows if _is_compared(a.recipe, b.recipe)]
    headings = (f"{_narrow(a.recipe)}\nminus\n{_narrow(b.recipe)}" for a, b in pairs)
    table = figure_table("Differences (± one standard error over the phrases)", "", *headings)
    for name in SCORES:
        table.add_row(name, *(_difference(name, a, b, codes) for a, b in pairs))
    return table


def figure_table(title: str, *columns: str) -> Table:
    """An empty table of a name and then figures, legible at 80 columns."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True, vertical="bottom")
    return table


def _narrow(recipe: Recipe) -> str:
    return recipe.name.replace(" + ", "\n+ ")


def phrase_tables(rows: list[Row], codes: MedicalCodes, picked: list[int]) -> list[Table]:
    """Some test phrases, each with its code and every loss's answer."""
    return [
        _answers(
            f"“{codes.test.texts[i]}”",
            [("its code", int(codes.test.nodes[i]))]
            + [(row.recipe.name, int(row.best[i, 0])) for row in rows],
            codes,
            truth=int(codes.test.nodes[i]),
        )
        for i in picked
    ]


def draw_mistakes(rows: list[Row], codes: MedicalCodes, path: Path) -> None:
    """Writes a picture: where the answers land, and how far from the truth the mistakes are."""
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_landing(left, rows, codes)
    _draw_heights(right, rows, codes)
    figure.suptitle(
        f"ICD-10-CM: {len(codes.test):,} held-out phrases, {codes.tree.num_classes:,} codes",
        fontsize=13,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _is_compared(recipe: Recipe, base: Recipe) -> bool:
    if recipe.coarse:
        return recipe.key == f"{base.key}-coarse"
    return recipe.is_hace and not base.is_hace


def figure(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "severity" else f"{value:.1f}"


def _bold(text: str, is_best: bool) -> Text:
    return Text(text, style="bold" if is_best else "")


def _per_phrase(row: Row, codes: MedicalCodes) -> dict[str, np.ndarray]:
    """Each figure phrase by phrase: right or wrong in percent; of the mistakes, the LCA height."""
    target = codes.test.nodes
    pred = row.best[:, 0].numpy()
    parents = codes.tree.parents
    meeting = codes.tree.depths[codes.tree.lca(pred, target)]
    right = {
        "top-1": pred == target,
        "top-5": (row.best.numpy() == target[:, None]).any(axis=1),
        **{name: meeting >= level for name, level in LEVELS.items()},
        "siblings": parents[pred] == parents[target],
    }
    values = {name: 100.0 * share for name, share in right.items()}
    values["severity"] = _mistake_heights(row, codes).astype(float)
    return values


def _mistake_heights(row: Row, codes: MedicalCodes) -> np.ndarray:
    target = torch.from_numpy(codes.test.nodes)
    pred = row.best[:, 0]
    return metrics.lca_height(pred, target, codes.tree)[pred != target].numpy()


def _difference(name: str, row: Row, base: Row, codes: MedicalCodes) -> Text:
    a, b = _per_phrase(row, codes)[name], _per_phrase(base, codes)[name]
    difference = float(a.mean() - b.mean())
    if name == "severity":  # the mistakes of two rows are different phrases: no pairs
        error = math.sqrt(a.var() / len(a) + b.var() / len(b))
    else:
        error = float((a - b).std() / math.sqrt(len(a)))
    better = difference < 0 if name == "severity" else difference > 0
    style = "" if abs(difference) <= 2 * error else "green" if better else "red"
    sign = "-" if difference < 0 else "+"
    return Text(f"{sign}{figure(name, abs(difference))} ±{figure(name, error)}", style=style)


def _answers(
    title: str, answers: list[tuple[str, int]], codes: MedicalCodes, truth: int | None = None
) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, node in answers:
        style, meets = ("", "") if truth is None else _how_close(node, truth, codes)
        answer = Text(f"{codes.codes[node]}  {codes.titles[node]}", style=style)
        table.add_row("  " + name, answer, meets if name != "its code" else "")
    return table


def _how_close(node: int, truth: int, codes: MedicalCodes) -> tuple[str, str]:
    if node == truth:
        return "green", "right"
    depth = codes.tree.depths[codes.tree.lca(node, truth)]
    shared = [name for name, level in LEVELS.items() if level <= depth]
    if not shared:
        return "red", "another chapter"
    return ("yellow" if "category" in shared else "dark_orange"), f"right {shared[-1]}"


def _draw_landing(axes: Axes, rows: list[Row], codes: MedicalCodes) -> None:
    """Stacked shares of all phrases: exact, then how much of the truth's path is shared."""
    names = ("exact code", "right category", "right section", "right chapter", "another chapter")
    palette = ("#2a9d5c", "#a5d86e", "#f6d55c", "#f2994a", "#d1495b")
    labels = [row.recipe.name for row in rows]
    reached = np.array(
        [
            [row.figures[key] for key in ("top-1", "category", "section", "chapter")] + [100.0]
            for row in rows
        ]
    )
    shares = np.diff(reached, axis=1, prepend=0.0)
    left = np.zeros(len(rows))
    for name, color, share in zip(names, palette, shares.T, strict=True):
        bars = axes.barh(labels, share, left=left, color=color, label=name, height=0.72)
        axes.bar_label(bars, [f"{s:.1f}" for s in share], label_type="center", fontsize=9)
        left += share
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the phrases, %")
    axes.set_title("Where the answer lands", fontsize=11)
    axes.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.42, -0.13), frameon=False,
                fontsize=9, columnspacing=1.0, handlelength=1.2)  # fmt: skip
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


def _draw_heights(axes: Axes, rows: list[Row], codes: MedicalCodes) -> None:
    """Share of each row's mistakes by the height of the lowest common ancestor."""
    highest = int(codes.tree.heights.max())
    heights = np.arange(1, highest + 1)
    width = 0.84 / len(rows)
    for i, (row, color) in enumerate(zip(rows, COLORS, strict=True)):
        counts = np.bincount(_mistake_heights(row, codes), minlength=highest + 1)[1:]
        share = 100 * counts / max(counts.sum(), 1)
        label = f"{row.recipe.name} (mean {row.figures['severity']:.2f})"
        axes.bar(
            heights + (i - (len(rows) - 1) / 2) * width, share, width, color=color, label=label
        )
    ticks = [str(h) for h in heights]
    ticks[-1] += "\nanother\nchapter"
    axes.set_xticks(heights, ticks)
    axes.set_xlabel("height of the lowest common ancestor of answer and truth")
    axes.set_ylabel("share of the mistakes, %")
    axes.set_title("How far off the mistakes are (left is milder)", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
