"""Prints, after pytest-benchmark's own table, the ratios between the peers of each shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(config: Any) -> None:
    medians: dict[tuple[int, int], dict[str, float]] = {}
    for bench in config._benchmarksession.benchmarks:
        shape = (bench.extra_info["num_classes"], bench.extra_info["rows"])
        peer = bench.name.removeprefix("test_").split("[")[0]
        medians.setdefault(shape, {})[peer] = bench.stats.median
    if not medians:
        return
    table = Table(title=f"medians of one run, float32, {torch.get_num_threads()} threads")
    for column in ("C", "B", "clone ms", "cross-entropy ms", "HACE ms"):
        table.add_column(column, justify="right")
    for column in ("HACE / cross-entropy", "HACE / clone", "shuffled / ordered", "dense / HACE"):
        table.add_column(column, justify="right")
    for (num_classes, rows), of in sorted(medians.items()):
        table.add_row(
            f"{num_classes:,}",
            f"{rows:,}",
            *(f"{1e3 * of[peer]:.3f}" for peer in ("clone", "cross_entropy", "hace")),
            f"{of['hace'] / of['cross_entropy']:.2f}",
            f"{of['hace'] / of['clone']:.2f}",
            f"{of['hace_shuffled'] / of['hace']:.2f}",
            f"{of['dense'] / of['hace']:,.0f}" if "dense" in of else "",
        )
    Console(width=130).print(table)
