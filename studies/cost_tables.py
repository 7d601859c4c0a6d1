"""The tables of docs/study.md that say what each loss costs."""

from __future__ import annotations

import numpy as np

from .losses import LOSSES
from .memory import DENSE, Cost
from .plan import FIXED
from .results import MOST_PROBABLE
from .tables import RIVALS, TITLES, Report, markdown_table

MIB = 1 << 20
PARTS = ("loss", "train")


def time(reports: list[Report]) -> str:
    """Table of processor time per step, in the loss and in total: medians over the runs."""
    titles = [report.results.task for report in reports]
    lines = []
    for name in RIVALS:
        if LOSSES[name].tree != "true":
            continue
        cells = [LOSSES[name].title]
        for report in reports:
            of_loss, all_of = step_milliseconds(report, name)
            base, all_of_base = step_milliseconds(report, "ce")
            cells.append("" if np.isnan(of_loss) else f"{of_loss:.2f} ({of_loss / base:.1f}×)")
            cells.append("" if np.isnan(all_of) else f"{all_of:.1f} ({all_of / all_of_base:.1f}×)")
        if any(cells[1:]):
            lines.append(cells)
    head = ["loss", *(f"{title}: {part}" for title in titles for part in ("loss", "step"))]
    return markdown_table(head, lines)


def memory(costs: list[Cost]) -> str:
    """Table of memory in MiB, in the loss and in the whole step, beside cross-entropy's."""
    tasks = [name for name in TITLES if any(cost.task == name for cost in costs)]
    by_name = {(cost.task, cost.loss): cost for cost in costs}
    logits = [by_name[task, "ce"].logits_bytes for task in tasks]
    lines = [["(the logits)", *(cell for x in logits for cell in (f"{x / MIB:.1f}", ""))]]
    for name in (*RIVALS, DENSE):
        if name in FIXED or not any((task, name) in by_name for task in tasks):
            continue
        cells = [LOSSES[name].title if name in LOSSES else "HACE, as published (dense)"]
        for task in tasks:
            cost, base = by_name.get((task, name)), by_name[task, "ce"]
            if cost is None:
                cells += ["", ""]
                continue
            cells.append(_beside(_of_loss(cost), _of_loss(base)))
            cells.append(_beside(cost.step_bytes, base.step_bytes))
        lines.append(cells)
    head = ["loss", *(f"{task}: {part}" for task in tasks for part in ("loss", "step"))]
    return markdown_table(head, lines)


def published(costs: list[Cost]) -> str:
    """Table of HACE as published beside this package's: time and memory of the loss alone."""
    by_name = {(cost.task, cost.loss): cost for cost in costs}
    lines = []
    for task, title in TITLES.items():
        ce, ours, theirs = (by_name.get((task, name)) for name in ("ce", "hace", DENSE))
        if ce is None or ours is None or theirs is None:
            continue
        lines.append(
            [
                title,
                f"{ours.rows:,} × {ours.logits_bytes // (4 * ours.rows):,}",
                *(f"{cost.loss_ms:.2f}" for cost in (ce, ours, theirs)),
                f"{theirs.loss_ms / ours.loss_ms:.0f}",
                *(f"{_of_loss(cost) / MIB:.1f}" for cost in (ce, ours, theirs)),
                f"{_of_loss(theirs) / _of_loss(ours):.0f}",
            ]
        )
    kinds = ("cross-entropy", "HACE", "dense")
    head = [
        "task", "rows × classes", *(f"{kind}, ms" for kind in kinds), "dense / HACE",
        *(f"{kind}, MiB" for kind in kinds), "dense / HACE",
    ]  # fmt: skip
    return markdown_table(head, lines)


def _of_loss(cost: Cost) -> int:
    return cost.kept_bytes + cost.loss_bytes


def _beside(value: int, base: int) -> str:
    return f"{value / MIB:.1f} ({value / base:.1f}×)"


def step_milliseconds(report: Report, loss: str) -> tuple[float, float]:
    """Milliseconds per step, in the loss and in total: medians over the runs, NaN without runs."""
    rows = report.frame[
        (report.frame["loss"] == loss)
        & (report.frame["per_class"] == "0")
        & (report.frame["coarse"] == "0")
        & (report.frame["decision"] == MOST_PROBABLE)
    ]
    if rows.empty:
        return float("nan"), float("nan")
    in_loss, in_all = (1e3 * rows[f"{x}_seconds"] / rows["steps"].astype(int) for x in PARTS)
    return float(in_loss.median()), float(in_all.median())
