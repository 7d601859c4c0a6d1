"""What a run prints: a bar while it runs, and its tables."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from .grids import Grid, disturbance, grids, machine_line, notes
from .records import Result

__all__ = ["make_console", "progress_bar", "show"]

WIDTH = 170  # of the widest table


def make_console() -> Console:
    """A console for the terminal, or for a file, where it is wide enough for the tables."""
    console = Console(emoji=False)
    wide = console.is_terminal or console.width >= WIDTH
    return console if wide else Console(emoji=False, width=WIDTH)


def progress_bar(console: Console) -> Progress:
    """Shows the cases done, the time, the current case and the current contestant."""
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}  [dim]{task.fields[contestant]}"),
        console=console,
    )


def show(result: Result, console: Console) -> None:
    """Prints every table, and why some have no figures."""
    console.print(machine_line(result), highlight=False)
    for grid in grids(result):
        console.print(_table(grid))
    warning = disturbance(result)
    if warning:
        console.print(f"[yellow]{warning}", highlight=False)
    for note in notes(result):
        console.print(f"[dim]{note}", highlight=False)


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(grid.header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in grid.rows:
        ours = row[0].startswith("hace.")
        table.add_row(*row, style="bold" if ours else "")
    return table
