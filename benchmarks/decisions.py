"""Decisions at up to 1,000,000 classes: time beside a softmax of the same logits, and peak memory.

    python -m benchmarks.decisions
    python -m benchmarks.decisions --classes 1000000 --rows 32

Times are processor seconds of one thread, the fastest of several runs. The peak is the most memory
that the process had beyond the logits while the decision ran. For minimum expected cost, the C × C
matrix of the published method would be 4 TB at a million classes.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hace
from hace import decode

DECISIONS: dict[str, Callable[[Tensor, hace.Hierarchy], Any]] = {
    "softmax": lambda x, _: x.softmax(1),
    "most probable class": decode.most_probable,
    "node probabilities": lambda x, tree: hace.functional.node_log_probs(x, tree),
    "top-down greedy": decode.top_down_greedy,
    "deepest node, P ≥ 0.5": decode.deepest_node,
    "majority subtree": decode.majority_subtree,
    "expected information": decode.expected_information,
    "conformal node": lambda x, tree: decode.conformal_node(x, tree, 0.9),
    "minimum cost: height": decode.minimum_expected_cost,
    "minimum cost: hops": lambda x, tree: decode.minimum_expected_cost(x, tree, cost="hops"),
    "top 3 per level": lambda x, tree: decode.top_k_per_level(x, tree, 3),
    "Pareto nodes": decode.pareto_nodes,
}


def random_taxonomy(num_classes: int, seed: int = 0) -> hace.Hierarchy:
    """Seven levels of inner nodes, parents drawn at random; about 1.3 nodes per class."""
    rng = np.random.default_rng(seed)
    widths = [max(1, round(num_classes / 4**level)) for level in range(7, 0, -1)]
    parents, first = [np.full(widths[0], -1)], 0
    for above, width in zip(widths, [*widths[1:], num_classes], strict=True):
        # Every node of the level above has a child.
        chosen = np.concatenate([np.arange(above), rng.integers(0, above, width - above)])
        parents.append(first + np.sort(chosen))
        first += above
    return hace.Hierarchy.from_parents(np.concatenate(parents))


def resident_bytes() -> int:
    """The memory of this process now (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Peak:
    """Context: the most memory of the process while inside, beyond what it had before."""

    def __enter__(self) -> Peak:
        self._before = self._most = resident_bytes()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self.bytes = self._most - self._before

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._most = max(self._most, resident_bytes())


def measure(decide: Callable[[], Any], runs: int) -> tuple[float, int]:
    """Processor seconds of the fastest run, and peak bytes of the first."""
    decide()  # builds tables
    with Peak() as peak:
        decide()
    times = []
    for _ in range(runs):
        start = time.process_time()
        decide()
        times.append(time.process_time() - start)
    return min(times), peak.bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decisions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--rows", type=int, default=32, help="rows of logits (32)")
    parser.add_argument(
        "--runs", type=int, default=3, help="calls, the fastest of which counts (3)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    for num_classes in options.classes:
        tree = random_taxonomy(num_classes)
        logits = 3 * torch.randn(options.rows, num_classes)
        print(f"\n{tree!r}, {options.rows} rows, logits {logits.nbytes / 2**20:,.0f} MiB, 1 thread")
        print(f"{'decision':24} {'ms':>10} {'/ softmax':>10} {'peak MiB':>10}")
        softmax = None
        for name, decide in DECISIONS.items():
            seconds, peak = measure(partial(decide, logits, tree), options.runs)
            softmax = softmax or seconds
            print(
                f"{name:24} {1e3 * seconds:10.1f} {seconds / softmax:10.1f} {peak / 2**20:10.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
