"""How far the trainings are: bars on a terminal, and elsewhere a line for each that is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: Takes a training's name and number of steps; gives what has to be called after each step.
Trainings: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[], object]]]


@contextmanager
def training_progress(console: Console) -> Iterator[Trainings]:
    """Tells of each training that is done inside."""
    if not console.is_terminal:
        yield partial(_in_lines, console)
        return
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:

        @contextmanager
        def bar(name: str, steps: int) -> Iterator[Callable[[], object]]:
            yield partial(progress.advance, progress.add_task(name, total=steps))

        yield bar


@contextmanager
def _in_lines(console: Console, name: str, steps: int) -> Iterator[Callable[[], object]]:
    started = time.perf_counter()
    yield lambda: None
    seconds = time.perf_counter() - started
    console.print(f"trained {name}: {steps:,} steps, {seconds:.0f} s")
    console.file.flush()
