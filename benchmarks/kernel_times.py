"""The time that the kernels of a step take on an NVIDIA GPU: `python -m benchmarks.kernel_times`.

For forward and backward together, by PyTorch's profiler: what Python and the launches cost is left
out, and so is the time between two kernels. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from . import trees
from .cases import decimal
from .machine import describe_machine, describe_versions
from .peers import PEERS, Step
from .problem import TARGETS, Problem

STEPS = 5

SHAPES = [
    (1_000, 256, "float32"),
    (1_000, 4_096, "float32"),
    (10_000, 64, "float32"),
    (10_000, 1_600, "float32"),
    (10_000, 8_192, "bfloat16"),
    (100_000, 256, "float32"),
    (100_000, 1_024, "bfloat16"),
    (1_000_000, 1, "float32"),
    (1_000_000, 64, "bfloat16"),
]


def problems() -> Iterator[Problem]:
    """Target indices in every shape, and the other kinds of target in two of them."""
    for classes, rows, dtype in SHAPES:
        yield Problem(trees.build(decimal(classes)), rows, getattr(torch, dtype), "index", "cuda")
    for classes, rows in ((10_000, 1_600), (100_000, 48)):
        for target in TARGETS:
            if target != "index":
                tree = trees.build(decimal(classes))
                yield Problem(tree, rows, torch.float32, target, "cuda")


def microseconds(step: Step) -> float:
    """What the kernels of one step take together."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as measured:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in measured.key_averages()) / STEPS


def main() -> None:
    """Prints the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_times", description=__doc__)
    parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("it needs an NVIDIA GPU and a torch that is built for CUDA")
    print("| C × B | dtype | target | cross-entropy, µs | HACE, µs | columns in random order, µs |")
    print("|---|---|---|--:|--:|--:|")
    for problem in problems():
        logits, target = problem.batch()
        names = ("cross_entropy", "hace", "hace_shuffled")
        times = [
            microseconds(peer.step(peer.make(problem), logits, target))
            for peer in map(PEERS.__getitem__, names if problem.kind == "index" else names[:2])
        ]
        dtype = str(problem.dtype).removeprefix("torch.")
        shape = f"{problem.classes:,} × {problem.rows:,}"
        figures = " | ".join(f"{time:.0f}" for time in times) + " |" * (4 - len(times))
        print(f"| {shape} | {dtype} | {problem.kind} | {figures}", flush=True)
        del logits, target
        torch.cuda.empty_cache()
    versions = describe_versions()
    print(f"\n{describe_machine()['gpu']}, torch {versions['torch']}, CUDA {versions['cuda']}")


if __name__ == "__main__":
    main()
