"""Time and memory of a linear layer and its loss by tiles of classes: `python -m benchmarks.heads`.

Prints a table of ratios with their goals, in about six minutes where nothing else runs. Times are
processor seconds of one thread for forward and backward, the fastest of some rounds. Memory is
measured in separate processes.
"""

from __future__ import annotations

import argparse
import time

import torch

from ..machine import describe_machine, is_busy
from .goals import SECTIONS, Figure


def line(figure: Figure) -> str:
    """A row of the table."""
    unit, goal = f" {figure.unit}" if figure.unit else "", "–"
    if figure.goal is not None:
        sign = "≥" if figure.at_least else "≤"
        goal = f"{sign} {figure.goal:g}{unit}" + (", missed" if figure.is_missed else "")
    return f"| {figure.what} | {figure.case} | {figure.shown(figure.found)}{unit} | {goal} |"


def main() -> None:
    """Prints the table, a line as soon as it is known."""
    names = list(dict.fromkeys(section.name for section in SECTIONS))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=6, help="processor time for each comparison (6)"
    )
    parser.add_argument("--only", choices=names, action="append", help="only this part; repeatable")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    start, busy = time.monotonic(), is_busy()
    machine = describe_machine()
    print("| what | rows × features × classes | found | goal |", "|---|---|--:|--:|", sep="\n")
    for section in SECTIONS:
        if options.only is None or section.name in options.only:
            for figure in section.figures(options.seconds):
                print(line(figure), flush=True)
    minutes = (time.monotonic() - start) / 60
    state = "other work was on the machine" if busy else "quiet"
    print(f"\n{machine['cpu']}, torch {torch.__version__}, {minutes:.1f} minutes, {state}")


if __name__ == "__main__":
    main()
