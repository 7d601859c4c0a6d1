"""`python -m benchmarks.tables RESULT.json`: the tables of a run as Markdown, to paste."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .grids import Grid, disturbance, grids, machine_line, notes
from .records import Result

__all__ = ["main", "markdown"]


def markdown(result: Result) -> str:
    """The machine, and a table for each sweep."""
    parts = [f"Measured on {machine_line(result)}."]
    warning = disturbance(result)
    if warning:
        parts.append(f"**{warning}**")
    for grid in grids(result):
        parts.append(f"### {grid.title}\n\n{_table(grid)}")
    found = notes(result)
    if found:
        parts.append("\n".join(["Without figures:\n", *(f"- {note}" for note in found)]))
    return "\n\n".join(parts) + "\n"


def _table(grid: Grid) -> str:
    rules = ["--:" if _is_figures(grid, index) else "---" for index in range(len(grid.header))]
    lines = [grid.header, rules, *grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_figures(grid: Grid, column: int) -> bool:
    return column > 0 or grid.header[0] != ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables of a results.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("result", type=Path, help="results.json of a run")
    print(markdown(Result.load(parser.parse_args(arguments).result)), end="")


if __name__ == "__main__":
    main()
