"""Three pictures of a run, each as PNG and SVG: time, memory, and how near a copy's speed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .grids import machine_line, readable_bytes
from .records import Record, Result

__all__ = ["draw"]

matplotlib.use("Agg")

OURS, PLAIN, OTHERS = "#1f5fae", "#333333", ("#c4572b", "#8a6d1d", "#7a4fa3", "#2d8a6e", "#b03a6f")

#: Colour, line and marker of each contestant: blue for ours, grey for plain cross-entropy and the
#: copy, others for hierarchical peers.
STYLES = {
    "hace": (OURS, "-", "o"),
    "hace_shuffled": (OURS, "--", "o"),
    "hace_tree": (OURS, ":", "s"),
    "hxe": ("#5b9bd5", "-", "D"),
    "clone": ("#aaaaaa", "--", ""),
    "cross_entropy": (PLAIN, "-", "o"),
    "compiled_cross_entropy": (PLAIN, "--", "s"),
    "liger": (PLAIN, ":", "^"),
    "quack": (PLAIN, "-.", "v"),
    "index_add": (OTHERS[0], "-", "^"),
    "sparse": (OTHERS[1], "-", "v"),
    "masked": (OTHERS[2], "-", "s"),
    "dense": (OTHERS[3], "-", "D"),
    "hxe_masks": (OTHERS[4], "-", "X"),
}


def draw(result: Result, folder: Path) -> list[Path]:
    """Writes the pictures that the run has figures for, and returns their paths."""
    pictures = {"time": _draw_time, "memory": _draw_memory, "copy": _draw_copy}
    written = []
    for name, draw_one in pictures.items():
        figure = Figure(figsize=(9.5, 5.2), layout="constrained")
        axes = figure.subplots()
        if not draw_one(axes, result):
            continue
        axes.spines[["top", "right"]].set_visible(False)
        figure.supxlabel(machine_line(result), fontsize=6, color="#777777", wrap=True)
        for suffix in ("png", "svg"):
            written.append(folder / f"{name}.{suffix}")
            figure.savefig(written[-1], dpi=150)
    return written


def _draw_time(axes: Axes, result: Result) -> bool:
    """Milliseconds against C, with the quartiles as a band."""
    lines = _by_contestant([r for r in result.records if r.sweep == "classes" and r.median_s])
    for name, found in _slowest_first(lines, lambda record: record.median_s or 0):
        classes = [record.classes for record in found]
        color = STYLES[name][0]
        _line(axes, name, found, classes, [1e3 * (r.median_s or 0) for r in found])
        low, high = ([1e3 * (getattr(r, q) or 0) for r in found] for q in ("q1_s", "q3_s"))
        axes.fill_between(classes, low, high, color=color, alpha=0.15, linewidth=0)
    if lines:
        rows = next(iter(lines.values()))[0].rows
        axes.set_title(
            f"Forward and backward of {rows} rows, ms; a line ends where memory does",
            loc="left",
            fontsize=11,
        )
        _logarithmic(axes, "classes C")
    return bool(lines)


def _draw_memory(axes: Axes, result: Result) -> bool:
    """Bytes against C: what is kept and what a step takes at its peak; hollow where it is too much.

    Hollow marks stand at what the formula asks for.
    """
    sweep = [record for record in result.records if record.sweep == "memory"]
    lines = _by_contestant([record for record in sweep if _taken(record)])
    for name, found in _slowest_first(lines, _taken):
        color, _, marker = STYLES[name]
        _line(axes, name, found, [r.classes for r in found], [_taken(r) for r in found])
        for record in found:
            if record.status == "too large":
                axes.plot(record.classes, _taken(record), marker or "o", color="white",
                          markeredgecolor=color, zorder=3)  # fmt: skip
    if lines:
        floor = sorted({(record.classes, record.logits_bytes) for record in sweep})
        axes.plot(*zip(*floor, strict=True), color="#aaaaaa", linestyle="--", label="the gradient")
        axes.set_title(
            f"What a step of {sweep[0].rows} rows takes beside the logits (hollow: would take)",
            loc="left",
            fontsize=11,
        )
        _logarithmic(axes, "classes C")
        axes.yaxis.set_major_formatter(FuncFormatter(_bytes_tick))
    return bool(lines)


def _draw_copy(axes: Axes, result: Result) -> bool:
    """The share of a copy's speed against the size of the logits, float32 and hard targets."""
    lines = _by_contestant(
        [
            record
            for record in result.records
            if record.sweep in ("table", "classes", "rows")
            and record.of_copy
            and record.contestant in ("hace", "cross_entropy", "compiled_cross_entropy")
        ]
    )
    for name, found in lines.items():
        found.sort(key=lambda record: record.logits_bytes)
        sizes = [record.logits_bytes for record in found]
        shares = [100 * (record.of_copy or 0) for record in found]
        color, line, marker = STYLES[name]
        filled = color if line == "-" else "none"
        axes.plot(sizes, shares, marker, color=color, markerfacecolor=filled, label=found[0].title)
    if lines:
        axes.axhline(100, color="#aaaaaa", linestyle="--", linewidth=1)
        axes.set_title("Speed, in percent of a copy of the logits", loc="left", fontsize=11)
        axes.set_xscale("log")
        axes.set_ylim(0, 112)
        _mark_caches(axes, result)
        axes.set_xlabel("size of the logits")
        axes.xaxis.set_major_formatter(FuncFormatter(_bytes_tick))
        axes.legend(frameon=False)
    return bool(lines)


def _mark_caches(axes: Axes, result: Result) -> None:
    """A line where the logits fill a cache, on the CPU."""
    if result.settings["device"] != "cpu":
        return
    for name, size in result.machine["caches"].items():
        if name.startswith(("L2", "L3")) and size.endswith("K"):
            axes.axvline(1024 * int(size[:-1]), color="#dddddd", linewidth=1, zorder=0)
            axes.annotate(f" {name[:2]}", (1024 * int(size[:-1]), 112), color="#777777", va="top")


def _by_contestant(records: list[Record]) -> dict[str, list[Record]]:
    lines: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        lines[record.contestant].append(record)
    return lines


def _slowest_first(
    lines: dict[str, list[Record]], height: Callable[[Record], float]
) -> list[tuple[str, list[Record]]]:
    """From the top, as the legend stands: first what ends early, then by where it ends."""

    def rank(item: tuple[str, list[Record]]) -> tuple[int, float]:
        last = max(item[1], key=lambda record: record.classes)
        return last.classes, -height(last)

    return sorted(lines.items(), key=rank)


def _line(
    axes: Axes, name: str, found: list[Record], x: list[int], y: list[float] | list[int]
) -> None:
    color, style, marker = STYLES[name]
    axes.plot(x, y, color=color, linestyle=style, marker=marker, markersize=4, linewidth=1.6,
              label=found[0].title)  # fmt: skip


def _logarithmic(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.grid(True, which="major", color="#eeeeee", linewidth=0.8)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _bytes_tick(value: float, _: int) -> str:
    """1 MB rather than 1.00 MB."""
    digits, unit = readable_bytes(value).split()
    return f"{float(digits.replace(',', '')):g} {unit}"


def _taken(record: Record) -> int:
    """Bytes: measured, or by the formula where that is too much to try."""
    if record.status == "too large":
        return record.needs_bytes or 0
    return (record.kept_bytes or 0) + (record.step_bytes or 0)
