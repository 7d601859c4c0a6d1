"""Trains the medical coder with each loss and compares them on held-out phrases.

    python -m examples.icd10
    python -m examples.icd10 --phrase "kidney stone" --phrase "allergic to peanuts"
    python -m examples.icd10 --interactive

The coder knows only the words of its training phrases, not what people call things otherwise: of
“kidney stone” it knows kidneys, for what the classification calls a calculus is a stone in hardly
any phrase but held-out ones.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import hace

from .answers import SURE, asked, tell
from .data import MedicalCodes, load
from .memory import keep_freed_memory
from .progress import training_progress
from .rates import load_rates
from .recipes import RECIPES
from .report import (
    Row,
    difference_table,
    draw_mistakes,
    phrase_tables,
    score_table,
    time_table,
)
from .train import Schedule, measure, train

PHRASES_SHOWN = 6
ASKED = "hace-0.5"  # the coder that answers in the end
OWN_PHRASES = ["allergic to peanuts", "bitten by a dog", "kidney stone"]
ANSWERS = f"""\
A code, or the most specific node above it whose probability is {SURE:.0%} or more. The coder knows
the words of its training phrases alone."""
QUICK = "With --quick it knows one chapter alone, and takes every phrase for something in it."
NOTES = """\
top-1 and top-5: the right code is the first answer, or among five. chapter, section, category: the
first answer is in the right one. siblings: it has the truth's parent. All are in percent. severity:
the mean height of the lowest common ancestor of answer and truth over the mistakes (lower is
milder). Each loss has its own learning rate, chosen on validation phrases; a smaller rate makes the
mistakes of every loss milder, and rates.json has the figures at each. One seed: a difference within
two standard errors is a tie, and another seed moves every figure a little. The coarse row trains on
more phrases, whose labels are inner nodes of the tree; cross-entropy cannot use them."""


def run(console: Console, codes: MedicalCodes, schedule: Schedule) -> list[Row]:
    """Trains every recipe at its rate, and answers the test phrases."""
    rates = load_rates()
    rows = []
    with training_progress(console) as training:
        for recipe in RECIPES:
            rate = rates[recipe.key]
            with training(recipe.name, schedule.steps(codes, recipe)) as advance:
                trained = train(codes, recipe, rate, schedule, advance)
            best = trained.answer(codes.test.texts)
            rows.append(Row(trained, rate, best, measure(codes.tree, best, codes.test)))
    return rows


def show(console: Console, rows: list[Row], codes: MedicalCodes) -> None:
    """Prints the tables and some test phrases."""
    console.print(score_table(rows, codes))
    console.print(time_table(rows))
    console.print(" ".join(NOTES.split()), style="dim")
    console.print(difference_table(rows, codes))
    rng = np.random.default_rng(1)
    picked = rng.choice(len(codes.test), PHRASES_SHOWN, replace=False).tolist()
    console.rule("Held-out phrases, taken at random")
    for table in phrase_tables(rows, codes, picked):
        console.print(table)


def save(rows: list[Row], codes: MedicalCodes, schedule: Schedule, out: Path) -> None:
    """Writes mistakes.png and results.json."""
    draw_mistakes(rows, codes, out / "mistakes.png")
    results = {
        "test phrases": len(codes.test),
        "schedule": asdict(schedule),
        "threads": torch.get_num_threads(),
        "rows": {
            row.recipe.key: {
                "rate": row.rate,
                **row.figures,
                "loss seconds": row.trained.loss_seconds,
                "seconds": row.trained.seconds,
            }
            for row in rows
        },
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.icd10", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one chapter, one epoch: a smoke test")
    parser.add_argument("--phrase", action="append", help="a phrase to code (may be repeated)")
    parser.add_argument("--interactive", action="store_true", help="ask for phrases at the end")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for results")
    options = parser.parse_args(arguments)

    keep_freed_memory()
    started = time.perf_counter()
    console = Console()
    schedule = Schedule(epochs=1) if options.quick else Schedule()
    codes = load("10" if options.quick else None)
    backend = "C++" if hace.backends()["cpu"].available else "reference (no compiled kernel)"
    console.print(
        f"ICD-10-CM: {codes.tree.num_nodes:,} nodes, {codes.tree.num_classes:,} codes, "
        f"{len(codes.train):,} training phrases, {len(codes.coarse):,} coarse-labelled ones; "
        f"HACE runs on: {backend}"
    )
    rows = run(console, codes, schedule)
    show(console, rows, codes)
    save(rows, codes, schedule, options.out)
    console.print(
        f"Picture and figures in {options.out}/; {time.perf_counter() - started:.0f} s in all."
    )
    coder = next(row.trained for row in rows if row.recipe.key == ASKED)
    console.rule(f"Phrases from elsewhere, answered by {coder.recipe.name}")
    console.print(" ".join(ANSWERS.split()), style="dim")
    if options.quick:
        console.print(QUICK, style="dim")
    tell(console, coder, codes, options.phrase or OWN_PHRASES)
    if options.interactive:
        tell(console, coder, codes, asked(console))


if __name__ == "__main__":
    main()
