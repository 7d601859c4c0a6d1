"""Prints, after pytest-benchmark's own table, each op's medians by backend side by side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from .allocator import is_kept


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(config: Any) -> None:
    medians: dict[str, dict[str, float]] = {}
    for bench in config._benchmarksession.benchmarks:
        medians.setdefault(bench.group, {})[bench.extra_info["backend"]] = bench.stats.median
    if not medians:
        return
    backends = sorted({backend for of in medians.values() for backend in of})
    table = Table(title=f"medians of one run, ms, {torch.get_num_threads()} threads")
    table.add_column("op")
    for backend in backends:
        table.add_column(backend, justify="right")
    for group, of in medians.items():
        cells = (f"{1e3 * of[backend]:.3f}" if backend in of else "" for backend in backends)
        table.add_row(group, *cells)
    console = Console(width=130, emoji=False)
    console.print(table)
    if not is_kept():
        console.print(
            "Freed memory went back to the system, which takes time; `make bench-micro` keeps it."
        )
