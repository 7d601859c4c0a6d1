"""The figures of docs/study.md, from the results alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from .choose import trials
from .cost_tables import step_milliseconds
from .losses import LOSSES
from .plan import WINNERS
from .results import MOST_PROBABLE
from .tables import TITLES, Compared, Report, on_trees

matplotlib.use("Agg")

COLORS = {"better": "#2a9d5c", "tie": "#8a94a3", "worse": "#c8443c"}
FAR = 2.5  # a value that exceeds the second largest by this factor becomes an arrow or a title
BEYOND = 1.3  # the panel then ends at this multiple of the second largest
KINDS = {"true": ("*", "#12467f"), "swap": ("o", "#2f7fd1"), "rewire": ("s", "#d9902f"),
         "drop": ("^", "#2a9d5c"), "cover": ("D", "#8a4fb5"),
         "agglomerative": ("v", "#b5497f")}  # fmt: skip
MARKERS = "osD^v<>Ph"  # nine, beside ten colours, so that no two losses share marker and colour
LINES = {"ce": "#6b7686", "smoothing": "#d9902f", "hace": "#12467f", "hace-shuffled": "#7fb3e6"}
AXES = {"top1": "top-1, points", "height": "mean height over all rows"}


def draw_all(reports: list[Report], folder: Path) -> list[str]:
    """Writes every figure for which there are results, and returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "forest-top1": _forest(reports, "top1"),
        "forest-height": _forest(reports, "height"),
        "wrong-trees": _wrong_trees(reports),
        "heights": _heights(reports),
        "cost": _cost(reports),
        "rates": _rates(reports),
    }
    for name, figure in pictures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
    return [name for name, figure in pictures.items() if figure is not None]


def _panels(
    number: int, height: float, width: float = 3.6, left: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure with panels of this size in inches, three per row; `left` is room for labels."""
    columns = min(number, 3)
    rows = -(-number // columns)
    size = (left + width * columns, height * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    for one in axes[number:]:
        one.set_visible(False)
    return figure, axes[:number]


def _forest(reports: list[Report], outcome: str) -> Figure | None:
    """The difference of every loss to cross-entropy + smoothing, with intervals."""
    shown = {
        report.results.task: compared
        for report in reports
        if (compared := [
            c for c in report.compared() if (c.outcome, c.baseline) == (outcome, "smoothing")
        ])
    }  # fmt: skip
    if not shown:
        return None
    order = list(dict.fromkeys(c.rival.name for compared in shown.values() for c in compared))
    figure, axes = _panels(len(shown), 0.8 + 0.2 * len(order), left=2.2)
    columns = min(len(shown), 3)
    for j, (ax, (task, compared)) in enumerate(zip(axes, shown.items(), strict=True)):
        draw_differences(ax, compared, order)
        ax.set_yticks(range(len(order)), order if j % columns == 0 else [""] * len(order))
        ax.set_ylim(len(order) - 0.5, -0.5)
        ax.set_title(TITLES[task], fontsize=10)
        better = "right" if outcome == "top1" else "left"
        ax.set_xlabel(f"{AXES[outcome]} ({better} is better)", fontsize=8)
    figure.suptitle(
        "Difference to cross-entropy + smoothing, with 95 % interval\n"
        "(green: better, red: worse, grey: a tie after Holm's correction; "
        "arrows: beyond the panel, with the difference)",
        fontsize=10,
    )
    return figure


def _limit(sizes: list[float]) -> float:
    """The largest size that a panel shows to scale.

    One value far larger than all others would squeeze these. With five or fewer values, all are
    shown to scale.
    """
    *_, second, largest = sorted([0.0, *sizes])
    return BEYOND * second if len(sizes) > 5 and largest > FAR * second else largest


def draw_differences(ax: Axes, compared: list[Compared], order: list[str]) -> None:
    """Draws each difference with its interval.

    A difference far beyond all others becomes an arrow with its number, so that the others can
    be seen.
    """
    limit = _limit([max(abs(c.difference.low), abs(c.difference.high)) for c in compared])
    for c in compared:
        y, d, color = order.index(c.rival.name), c.difference, COLORS[c.verdict]
        if abs(d.value) <= limit:
            ax.plot([d.low, d.high], [y, y], color=color, lw=2)
            ax.plot(d.value, y, "o", color=color, ms=5)
            continue
        side = 1 if d.value > 0 else -1
        ax.annotate(
            f"{d.value:+.3g}".replace("-", "−"), (side * limit, y), (side * 0.75 * limit, y),
            color=color, fontsize=8, ha="left" if side < 0 else "right", va="center",
            arrowprops={"arrowstyle": "->", "color": color, "lw": 2},
        )  # fmt: skip
        ax.set_xlim(min(-limit, ax.get_xlim()[0]) if side < 0 else None,
                    max(limit, ax.get_xlim()[1]) if side > 0 else None)  # fmt: skip
    ax.axvline(0, color="#444", lw=0.8)


def _wrong_trees(reports: list[Report]) -> Figure | None:
    """The difference of losses to cross-entropy, against how much of the true tree is left."""
    shown = [
        (report, loss, found)
        for report in reports
        for loss in ("hace", *WINNERS)
        if len(found := [on for on in on_trees(report, loss, 2000) if on.tree != "dag"]) > 2
    ]
    if not shown:
        return None
    columns = len(shown)
    figure = Figure(figsize=(1 + 3.2 * columns, 6.2), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    handles = {}
    for k, outcome in enumerate(("top1", "height")):
        for j, (report, loss, found) in enumerate(shown):
            ax = axes[k, j]
            ax.spines[["top", "right"]].set_visible(False)
            for on in found:
                kind = on.tree.split()[0]
                marker, color = KINDS[kind]
                x, d = on.likeness, on.to_ce[outcome]
                ax.plot([x, x], [d.low, d.high], color=color, lw=1.4)
                size = 9 if kind == "true" else 6
                (handles[kind],) = ax.plot(
                    x, d.value, marker, color=color, ms=size, linestyle="none"
                )
            ax.axhline(0, color="#444", lw=0.8)
            ax.tick_params(labelsize=8)
            if j == 0:
                ax.set_ylabel(f"{AXES[outcome]}:\ndifference to cross-entropy", fontsize=8)
            if k == 1:
                ax.set_xlabel("rank correlation with the true tree", fontsize=8)
            else:
                title = f"{TITLES[report.results.task]}\n{LOSSES[loss].title}"
                ax.set_title(title, fontsize=9)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8,
        frameon=False,
    )  # fmt: skip
    return figure


def _heights(reports: list[Report]) -> Figure | None:
    """A histogram of the heights at which answers meet the truth."""
    shown = [r for r in reports if {"ce", "smoothing", "hace"} <= _losses(r)]
    if not shown:
        return None
    figure, axes = _panels(len(shown), 3.0)
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
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def _cost(reports: list[Report]) -> Figure | None:
    """The gain in height against the time of a training step, for losses with the true tree."""
    shown = [report for report in reports if report.compared()]
    if not shown:
        return None
    figure, axes = _panels(len(shown), 3.4)
    handles = {}
    for ax, report in zip(axes, shown, strict=True):
        rivals = {r.run.loss: r for r in report.rivals() if r.decision == MOST_PROBABLE}
        base_height = report.figures(rivals["ce"])["test_height"].mean()
        points = {
            name: (
                step_milliseconds(report, name)[1] / step_milliseconds(report, "ce")[1],
                float(base_height - report.figures(rival)["test_height"].mean()),
            )
            for name, rival in rivals.items()
            if LOSSES[name].tree == "true"
        }
        limit = _limit([abs(gain) for _, gain in points.values()])
        beyond = []
        for name, (times, gain) in points.items():
            if abs(gain) > limit:
                said = f"{gain:+.3g}".replace("-", "−")
                beyond.append(f"beyond: {LOSSES[name].title}, {said} at {times:.1f}×")
                continue
            number = list(LOSSES).index(name)
            (handles[LOSSES[name].title],) = ax.plot(
                times, gain, MARKERS[number % len(MARKERS)], ms=7, color=f"C{number % 10}",
                linestyle="none",
            )  # fmt: skip
        ax.axhline(0, color="#444", lw=0.8)
        ax.margins(0.1)
        ax.set_title("\n".join([TITLES[report.results.task], *beyond]), fontsize=9)
        ax.set_xlabel("time of a step / cross-entropy's", fontsize=8)
        ax.set_ylabel("mean height below cross-entropy's", fontsize=8)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8,
        frameon=False,
    )  # fmt: skip
    return figure


def _rates(reports: list[Report]) -> Figure | None:
    """Validation top-1 of the trials against their rates."""
    shown = [report for report in reports if trials(report.results, "hace")]
    if not shown:
        return None
    figure, axes = _panels(len(shown), 3.0)
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
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def _losses(report: Report) -> set[str]:
    return {rival.run.loss for rival in report.rivals()}
