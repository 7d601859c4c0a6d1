"""The figures of docs/study.md, from the results alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from .choose import choose, trials
from .losses import LOSSES
from .plan import SEEDS
from .results import MOST_PROBABLE
from .statistics import paired_difference
from .tables import TITLES, Report, Rival

matplotlib.use("Agg")

COLORS = {"better": "#2a9d5c", "tie": "#8a94a3", "worse": "#c8443c"}
LINES = {"ce": "#6b7686", "smoothing": "#d9902f", "hace": "#12467f", "hace-shuffled": "#7fb3e6"}
AXES = {"top1": "top-1, points", "height": "mean height over all rows"}


def draw_all(reports: list[Report], folder: Path) -> list[str]:
    """Writes every figure that there are results for; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "forest": _forest(reports),
        "wrong-trees": _wrong_trees(reports),
        "heights": _heights(reports),
        "cost": _cost(reports),
        "rates": _rates(reports),
    }
    for name, figure in pictures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
    return [name for name, figure in pictures.items() if figure is not None]


def _grid(columns: int, rows: int, height: float, width: float = 3.9) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.5 + width * columns, height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel().tolist()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _forest(reports: list[Report]) -> Figure | None:
    """Every loss less cross-entropy + smoothing, with intervals."""
    shown = [report for report in reports if report.compared()]
    if not shown:
        return None
    names: dict[str, None] = {}
    for report in shown:
        names.update(dict.fromkeys(c.rival.name for c in report.compared()))
    names.pop("cross-entropy + smoothing", None)
    order = list(names)
    figure, axes = _grid(len(shown), 2, 1.6 + 0.46 * len(order))
    for k, outcome in enumerate(("top1", "height")):
        for j, report in enumerate(shown):
            ax = axes[k * len(shown) + j]
            for c in report.compared():
                if c.outcome != outcome or c.baseline != "smoothing":
                    continue
                y, d = order.index(c.rival.name), c.difference
                ax.plot([d.low, d.high], [y, y], color=COLORS[c.verdict], lw=2)
                ax.plot(d.value, y, "o", color=COLORS[c.verdict], ms=5)
            ax.axvline(0, color="#444", lw=0.8)
            ax.set_yticks(range(len(order)), order if j == 0 else [""] * len(order), fontsize=8)
            ax.set_ylim(len(order) - 0.5, -0.5)
            better = "right" if outcome == "top1" else "left"
            ax.set_xlabel(f"{AXES[outcome]} ({better} is better)", fontsize=8)
            ax.tick_params(axis="x", labelsize=8)
            if k == 0:
                ax.set_title(TITLES[report.results.task], fontsize=10)
    figure.suptitle(
        "Less cross-entropy + smoothing: difference and 95 % interval "
        "(green better, red worse after Holm's correction)",
        fontsize=10,
    )
    return figure


def _wrong_trees(reports: list[Report]) -> Figure | None:
    """HACE less cross-entropy against how much of the true tree is left."""
    shown = [r for r in reports if r.frame["tree"].isin(["swap 50"]).any()]
    if not shown:
        return None
    figure, axes = _grid(len(shown), 2, 6.2)
    families = {"true": ("*", "#12467f"), "swap": ("o", "#2f7fd1"), "rewire": ("s", "#d9902f"),
                "drop": ("^", "#2a9d5c"), "cover": ("D", "#8a4fb5"),
                "agglomerative": ("v", "#b5497f")}  # fmt: skip
    for k, outcome in enumerate(("top1", "height")):
        for j, report in enumerate(shown):
            ax = axes[k * len(shown) + j]
            chosen, base = choose(report.results, "hace"), choose(report.results, "ce")
            seen: set[str] = set()
            for tree in report.frame["tree"].unique():
                runs = [replace(chosen, tree=str(tree), seed=seed) for seed in SEEDS]
                runs = [run for run in runs if run in report.results]
                if not runs or tree == "dag":  # which has no likeness
                    continue
                rival = Rival(str(tree), chosen, MOST_PROBABLE)
                d = paired_difference(
                    report.values(rival, outcome, runs),
                    report.values(rival, outcome, [replace(base, seed=r.seed) for r in runs]),
                    draws=2000,
                )
                x = float(report.rows_of(runs)["tree_likeness"].mean())
                kind = str(tree).split()[0]
                marker, color = families[kind]
                label = kind if kind not in seen else None
                seen.add(kind)
                ax.plot([x, x], [d.low, d.high], color=color, lw=1.4)
                ax.plot(x, d.value, marker, color=color, ms=9 if kind == "true" else 6, label=label)
            ax.axhline(0, color="#444", lw=0.8)
            ax.set_ylabel(f"{AXES[outcome]}: HACE − CE", fontsize=8)
            ax.set_xlabel("rank correlation with the true tree", fontsize=8)
            ax.tick_params(labelsize=8)
            if k == 0:
                ax.set_title(TITLES[report.results.task], fontsize=10)
                ax.legend(fontsize=7, frameon=False)
    return figure


def _heights(reports: list[Report]) -> Figure | None:
    """Where the mistakes meet the truth."""
    shown = [r for r in reports if {"ce", "smoothing", "hace"} <= _losses(r)]
    if not shown:
        return None
    figure, axes = _grid(len(shown), 1, 3.4)
    for ax, report in zip(axes, shown, strict=True):
        rivals = {r.run.loss: r for r in report.rivals() if r.decision == MOST_PROBABLE}
        names = [name for name in LINES if name in rivals]
        for i, name in enumerate(names):
            heights = report.values(rivals[name], "height").astype(int)
            highest = int(report.values(rivals["ce"], "height").max())
            share = 100 * np.bincount(heights.ravel(), minlength=highest + 1)[1:] / heights.size
            at = np.arange(1, len(share) + 1) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
            ax.bar(at, share, 0.8 / len(names), color=LINES[name], label=rivals[name].name)
        ax.set_title(TITLES[report.results.task], fontsize=10)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("height where answer and truth meet", fontsize=8)
        ax.set_ylabel("share of all rows, %", fontsize=8)
        ax.tick_params(labelsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def _cost(reports: list[Report]) -> Figure | None:
    """Seconds of training beside what is gained in height."""
    shown = [report for report in reports if report.compared()]
    if not shown:
        return None
    figure, axes = _grid(len(shown), 1, 3.6)
    for ax, report in zip(axes, shown, strict=True):
        rivals = {r.run.loss: r for r in report.rivals() if r.decision == MOST_PROBABLE}
        base = report.figures(rivals["ce"])
        per_step = {
            name: 1e3 * float((rows["train_seconds"] / rows["steps"].astype(int)).median())
            for name in rivals
            if not (rows := report.frame[
                (report.frame["loss"] == name) & (report.frame["per_class"] == "0")
                & (report.frame["coarse"] == "0")
            ]).empty
        }  # fmt: skip
        for name, rival in rivals.items():
            gain = base["test_height"].mean() - report.figures(rival)["test_height"].mean()
            ax.plot(per_step[name] / per_step["ce"], gain, "o", color=LINES.get(name, "#8a4fb5"))
            ax.annotate(name, (per_step[name] / per_step["ce"], gain), fontsize=7,
                        xytext=(3, 3), textcoords="offset points")  # fmt: skip
        ax.axhline(0, color="#444", lw=0.8)
        ax.margins(x=0.18)
        ax.set_title(TITLES[report.results.task], fontsize=10)
        ax.set_xlabel("time of a step / cross-entropy's", fontsize=8)
        ax.set_ylabel("mean height below cross-entropy's", fontsize=8)
        ax.tick_params(labelsize=8)
    return figure


def _rates(reports: list[Report]) -> Figure | None:
    """Validation top-1 of the trials against their rates."""
    shown = [report for report in reports if trials(report.results, "hace")]
    if not shown:
        return None
    figure, axes = _grid(len(shown), 1, 3.4)
    for ax, report in zip(axes, shown, strict=True):
        shown_rates = sorted({float(row["rate"]) for row in trials(report.results, "hace")})
        for name, color in LINES.items():
            rows = trials(report.results, name)
            rates = sorted({float(row["rate"]) for row in rows})
            best = [
                max(float(r["validation_top1"]) for r in rows if float(r["rate"]) == rate)
                for rate in rates
            ]
            ax.plot(rates, best, "o-", color=color, label=LOSSES[name].title, ms=4)
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(shown_rates, [f"{rate:g}" for rate in shown_rates])
        ax.set_title(TITLES[report.results.task], fontsize=10)
        ax.set_xlabel("learning rate", fontsize=8)
        ax.set_ylabel("best validation top-1, %", fontsize=8)
        ax.tick_params(labelsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def _losses(report: Report) -> set[str]:
    return {rival.run.loss for rival in report.rivals()}
