"""Puts the tables into docs/study.md, between its markers, and draws its figures.

A table of the page stands between `<!-- studies: NAME [TASK] -->` and `<!-- end -->`. The words
around the tables are written by hand, and tests/studies checks that they quote only figures that
a table has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from . import cost_tables, memory, tables
from .pictures import draw_all
from .plan import LONG
from .results import FOLDER, Results

PAGE = FOLDER.parents[1] / "docs" / "study.md"
PICTURES = FOLDER.parents[1] / "docs" / "pictures" / "study"
MARKED = re.compile(r"<!-- studies: ([a-z ]+?)(?: \[([\w-]+)\])? -->\n.*?<!-- end -->", re.S)


def load(folder: Path = FOLDER) -> list[tables.Report]:
    """The reports of all tasks that have a finished comparison, in the page's order."""
    names = [name for name in tables.TITLES if (folder / f"{name}.csv").exists()]
    reports = [tables.Report(Results(name, folder)) for name in names]
    return [report for report in reports if report.compared()]


def table(
    name: str, task: str | None, reports: list[tables.Report], costs: list[memory.Cost]
) -> str:
    """One of the page's tables, by its name.

    Raises:
        KeyError: there is no such table or task.
    """
    if name in ("memory", "published"):
        return {"memory": cost_tables.memory, "published": cost_tables.published}[name](costs)
    if task is None:
        return {
            "verdicts": tables.verdicts,
            "what was run": tables.what_was_run,
            "cost": cost_tables.time,
            "by test": tables.by_test,
        }[name](reports)
    report = {r.results.task: r for r in reports}[task]
    if name == "long":
        return tables.differences(report, length=LONG)
    if name == "long figures":
        return tables.figures(report, length=LONG)
    return {
        "differences": tables.differences,
        "figures": tables.figures,
        "wrong trees": tables.wrong_trees,
        "winners on wrong trees": tables.winners_on_wrong_trees,
        "dilutions": tables.dilutions,
        "few samples": tables.few_samples,
        "coarse": tables.coarse,
    }[name](report)


def filled(page: str, reports: list[tables.Report], costs: Sequence[memory.Cost] = ()) -> str:
    """The page with its tables made anew."""

    def fill(marker: re.Match[str]) -> str:
        name, task = marker[1], marker[2]
        first = marker[0].split("\n", 1)[0]
        return f"{first}\n\n{table(name, task, reports, list(costs))}\n\n<!-- end -->"

    return MARKED.sub(fill, page)


def write_report(folder: Path = FOLDER) -> None:
    """Makes the page's tables and figures from the results in a folder."""
    reports = load(folder)
    if not reports:
        raise SystemExit(f"no finished comparison in {folder}: `python -m studies run` makes some")
    drawn = draw_all(reports, PICTURES)
    page = filled(PAGE.read_text(encoding="utf-8"), reports, memory.load(folder))
    PAGE.write_text(page, encoding="utf-8")
    print(f"{PAGE}: tables of {len(reports)} tasks; figures: {', '.join(drawn)}")
