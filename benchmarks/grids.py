"""The results as tables of text, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .cases import SWEEPS
from .records import Record, Result, growth

__all__ = ["Grid", "disturbance", "grids", "machine_line", "notes", "readable_bytes"]


@dataclass(frozen=True)
class Grid:
    """A table: the first column names the rows, the others are figures."""

    title: str
    header: list[str]
    rows: list[list[str]]


def grids(result: Result) -> list[Grid]:
    """A table for each sweep that was run, and one of how times grow with C."""
    readme = _readme_grid(result)
    found = [readme] if readme.rows else []
    for sweep, question in SWEEPS.items():
        records = [record for record in result.records if record.sweep == sweep != "table"]
        if records and sweep == "memory":
            title = f"{question}: bytes, (times the gradient's), + what is kept between steps"
            found.append(_grid(f"{sweep}: {title}", records, _memory_cell))
        elif records:
            title = f"{sweep}: {question}; ms per step, (times ours)"
            found.append(_grid(title, records, _time_cell, _copy_rows(records)))
    exponents = growth(result.records)
    if exponents:
        titles = {record.contestant: record.title for record in result.records}
        found.append(
            Grid(
                "growth: time ∝ C^x in the sweep of C, over half a million logits",
                ["", "x", "from C", "to C"],
                [
                    [
                        titles[name],
                        f"{fit['exponent']:.2f}",
                        f"{fit['from']:,.0f}",
                        f"{fit['to']:,.0f}",
                    ]
                    for name, fit in exponents.items()
                ],
            )
        )
    return found


def _readme_grid(result: Result) -> Grid:
    """The table of the README, of the cases where all of its columns have figures."""
    by_shape: dict[tuple[int, int], dict[str, float]] = {}
    for record in result.records:
        if record.sweep == "table" and record.median_s is not None:
            shape = (record.classes, record.rows)
            by_shape.setdefault(shape, {})[record.contestant] = record.median_s
    rows = []
    for (classes, batch), of in sorted(by_shape.items()):
        if _README_CONTESTANTS - of.keys():
            continue
        copy, plain, ours = of["clone"], of["cross_entropy"], of["hace"]
        rows.append(
            [
                f"{classes:,}",
                f"{batch:,}",
                *(f"{1e3 * seconds:.3f}" for seconds in (copy, plain, ours)),
                *(f"{ratio:.2f}" for ratio in (ours / plain, ours / copy)),
                f"{of['hace_shuffled'] / ours:.2f}",
                f"{of['dense'] / ours:,.0f}" if "dense" in of else "",
            ]
        )
    times = ["clone, ms", "cross-entropy, ms", "HACE, ms"]
    ratios = ["HACE / cross-entropy", "HACE / clone", "shuffled / ordered columns", "dense / HACE"]
    return Grid(f"table: {SWEEPS['table']}", ["C", "B", *times, *ratios], rows)


_README_CONTESTANTS = {"clone", "cross_entropy", "hace", "hace_shuffled"}


def notes(result: Result) -> list[str]:
    """Why some contestants have no figures, each reason once."""
    reasons: dict[str, None] = {}
    for record in result.records:
        if record.status != "ok":
            shape = f"{record.tree}, B = {record.rows:,}, {record.dtype}"
            reasons[f"{record.title} ({shape}): {record.status}: {record.note}"] = None
    return list(reasons)


def disturbance(result: Result) -> str | None:
    """A warning where the machine was not quiet, or None."""
    timed = [record for record in result.records if record.median_s is not None]
    disturbed = sum(record.is_disturbed for record in timed)
    if 10 * disturbed <= len(timed):
        return None
    return (
        f"NOT QUIET: {disturbed} of {len(timed)} medians are over 1.5 times the fastest call. "
        "Something else ran on this machine; neither times nor ratios are fit to be quoted."
    )


def machine_line(result: Result) -> str:
    """What the figures were measured on and with, in a sentence."""
    machine, versions, settings = result.machine, result.versions, result.settings
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    where = machine["gpu"] if settings["device"] == "cuda" else machine["cpu"]
    return (
        f"{where}, {_threads(settings['threads'])}, {machine['instructions']}, caches {caches}, "
        f"{readable_bytes(machine['memory_bytes'])} of memory, {machine['os']}; torch "
        f"{versions['torch']}, hace-kernels {versions['hace-kernels']} at "
        f"{versions['git'] or 'no commit'}, Python {versions['python']}"
    )


def readable_bytes(count: float) -> str:
    """Three digits and a decimal unit: "8.89 GB"."""
    for unit in ("B", "KB", "MB", "GB", "TB", "PB"):
        if count < 999.5 or unit == "PB":
            break
        count /= 1000
    return f"{_digits(count)} {unit}"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _digits(value: float) -> str:
    """Three significant digits, no exponent."""
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    if value < 1:
        decimals = 3
    return f"{value:,.{decimals}f}"


def _grid(
    title: str,
    records: list[Record],
    cell: Callable[[Record], str],
    more: dict[str, dict[str, str]] | None = None,
) -> Grid:
    """Cases down and contestants across, or the other way round where there are fewer cases."""
    label = _labels(records)
    cases = list(dict.fromkeys(label(record) for record in records))
    rows: dict[str, dict[str, str]] = {record.title: {} for record in records}
    for record in records:
        rows[record.title][label(record)] = cell(record)
    rows |= more or {}
    if len(cases) < len(rows):
        body = [[name, *(of.get(case, "") for case in cases)] for name, of in rows.items()]
        return Grid(title, ["", *cases], body)
    body = [[case, *(of.get(case, "") for of in rows.values())] for case in cases]
    return Grid(title, ["", *rows], body)


def _labels(records: list[Record]) -> Callable[[Record], str]:
    """Names a record's case by what differs within its sweep; C × B always."""
    axes: dict[str, Callable[[Record], str]] = {
        "tree": lambda record: record.tree,
        "dtype": lambda record: record.dtype,
        "target": lambda record: record.target,
        "threads": lambda record: _threads(record.threads),
    }
    shown = [name for name in axes if len({axes[name](record) for record in records}) > 1]
    if records[0].sweep in ("depth", "trees"):
        shown = list(dict.fromkeys(["tree", *shown]))
    elif "tree" in shown:  # made for each C
        shown.remove("tree")

    def label(record: Record) -> str:
        shape = f"{record.classes:,} × {record.rows:,}" if record.classes else "not here"
        return ", ".join([*(axes[name](record) for name in shown), shape])

    return label


def _time_cell(record: Record) -> str:
    if record.median_s is None:
        return _absent(record)
    time = _digits(1e3 * record.median_s)
    if record.times_ours is None or record.contestant in ("hace", "hxe"):
        return time
    return f"{time} ({_digits(record.times_ours)})"


def _memory_cell(record: Record) -> str:
    if record.step_bytes is None or record.kept_bytes is None:
        return _absent(record)
    times = record.step_bytes / record.logits_bytes
    kept = f" + {readable_bytes(record.kept_bytes)}" if record.kept_bytes > 100_000 else ""
    return f"{readable_bytes(record.step_bytes)} ({times:.1f}){kept}"


def _absent(record: Record) -> str:
    if record.status == "too large" and record.needs_bytes is not None:
        return f"needs {readable_bytes(record.needs_bytes)}"
    return record.status


def _copy_rows(records: list[Record]) -> dict[str, dict[str, str]]:
    """How our loss's speed compares with that of a copy."""
    label = _labels(records)
    rate: dict[str, str] = {}
    share: dict[str, str] = {}
    for record in records:
        if record.contestant == "hace" and record.bytes_per_s and record.of_copy:
            rate[label(record)] = _digits(1e-9 * record.bytes_per_s)
            share[label(record)] = f"{100 * record.of_copy:.0f} %"
    return {"hace.HACELoss, GB/s": rate, "hace.HACELoss, of a copy's speed": share}
