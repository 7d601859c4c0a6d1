"""Searches each loss's learning rate on the validation phrases and writes rates.json.

    python -m examples.icd10.tune

It writes what it has into a file of its own after each loss, which takes the place of rates.json
when all are done: stopped before, it leaves the demo's rates as they are.

The test phrases are not looked at. For every loss the rate with the best mean of top-1 and top-5
accuracy wins: top-1 alone, on so few phrases, is decided by noise.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .data import load
from .memory import keep_freed_memory
from .progress import training_progress
from .rates import RATES, save_rates
from .recipes import RECIPES
from .report import figure, figure_table
from .train import SCORES, Schedule, measure, train

GRID = (0.01, 0.016, 0.025)

Figures = dict[str, dict[float, dict[str, float]]]


def tune(chapter: str | None, schedule: Schedule, grid: tuple[float, ...], out: Path) -> Figures:
    """Trains every recipe at every rate; the file grows with each recipe."""
    codes = load(chapter)
    facts = {
        "chosen by": "mean of top-1 and top-5 accuracy on the validation phrases",
        "training phrases": len(codes.train),
        "validation phrases": len(codes.validation),
        "schedule": asdict(schedule),
    }
    figures: Figures = {}
    with training_progress(Console()) as training:
        for recipe in RECIPES:
            tried = {}
            for rate in grid:
                steps = schedule.steps(codes, recipe)
                with training(f"{recipe.name}, rate {rate}", steps) as advance:
                    trained = train(codes, recipe, rate, schedule, advance)
                best = trained.answer(codes.validation.texts)
                tried[rate] = measure(codes.tree, best, codes.validation)
            figures[recipe.key] = tried
            save_rates(out, facts, figures)
    return figures


def validation_table(figures: Figures) -> Table:
    """Every rate's validation figures."""
    table = figure_table("Validation phrases", "loss", "rate", *SCORES)
    table.show_edge = False  # with it, 82 columns
    for recipe in RECIPES:
        for rate, scores in figures[recipe.key].items():
            table.add_row(
                recipe.name, f"{rate:g}", *(figure(name, scores[name]) for name in SCORES)
            )
        table.add_section()
    return table


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.icd10.tune", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one chapter, one epoch, two rates")
    parser.add_argument("--out", type=Path, default=RATES, help="the file to write at the end")
    parser.add_argument(
        "--so-far", type=Path, default=Path("demo-output/rates-so-far.json"),
        help="the file that grows with each loss",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    keep_freed_memory()
    schedule = Schedule(epochs=1) if options.quick else Schedule()
    grid = GRID[:2] if options.quick else GRID
    figures = tune("10" if options.quick else None, schedule, grid, options.so_far)
    beside = options.out.with_name(f".{options.out.name}.new")
    shutil.copyfile(options.so_far, beside)
    beside.replace(options.out)
    Console().print(validation_table(figures))


if __name__ == "__main__":
    main()
