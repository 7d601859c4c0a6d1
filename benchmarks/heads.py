"""What a linear layer and its loss take by tiles of classes: `python -m benchmarks.heads`.

Processor seconds of one thread, forward and backward, the least of a few turns, as ratios to
nn.Linear + HACE of whole logits in the same process. `--memory` measures in processes of their own
what a step takes beyond the input, the layer and their gradients.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from hace_kernels import PathTable, linear_path_log_loss, path_log_loss

#: Rows, features, children at each of three levels, dtype.
CASES = [
    (512, 256, 33, torch.bfloat16),
    (4096, 256, 33, torch.bfloat16),
    (1024, 512, 46, torch.bfloat16),
    (512, 256, 33, torch.float32),
    (4096, 256, 33, torch.float32),
    (1024, 512, 46, torch.float32),
]


def three_levels(width: int, shuffled: bool) -> PathTable:
    """HACE with d = 0.5 over width³ classes."""
    num_classes = width**3
    position = torch.arange(num_classes)[:, None]
    size = torch.tensor([1, width, width**2])
    start = position // size * size
    order = torch.randperm(num_classes).int() if shuffled else None
    return PathTable(
        ptr=3 * torch.arange(num_classes + 1),
        start=start.int().reshape(-1),
        stop=(start + size).int().reshape(-1),
        weight=torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).repeat(num_classes),
        order=order,
        position=None if order is None else order.argsort().int(),
        num_classes=num_classes,
        max_entries=3,
    )


def seconds(step: Callable[[], object], turns: int) -> float:
    """The least processor time."""
    found = []
    for _ in range(turns):
        start = time.thread_time()
        step()
        found.append(time.thread_time() - start)
    return min(found)


def ratios(
    rows: int, features: int, width: int, dtype: torch.dtype, turns: int
) -> dict[str, float]:
    """Each way's time over that of whole logits in the tree's order."""
    num_classes = width**3
    x = torch.randn(rows, features).to(dtype).requires_grad_()
    weight = (0.05 * torch.randn(num_classes, features)).to(dtype).requires_grad_()
    target = torch.randint(num_classes, (rows,))
    ordered, shuffled = three_levels(width, False), three_levels(width, True)

    def step(loss: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(), (x, weight))

    def tiles(table: PathTable, logit_bytes: int = 0) -> Callable[[], object]:
        return step(lambda: linear_path_log_loss(x, weight, target, table, logit_bytes=logit_bytes))

    def whole(table: PathTable) -> Callable[[], object]:
        return step(lambda: path_log_loss(linear(x, weight), target, table))

    ways = {
        "whole": whole(ordered),
        "cross-entropy": step(lambda: cross_entropy(linear(x, weight), target)),
        "tiles": tiles(ordered),
        "whole, shuffled": whole(shuffled),
        "tiles, shuffled": tiles(shuffled),
    }
    if rows > 512 and dtype == torch.float32:
        ways["512 rows at once"] = tiles(ordered, 512 * num_classes * dtype.itemsize)
    found = {name: seconds(way, turns) for name, way in ways.items()}
    return {name: each / found["whole"] for name, each in found.items()}


def peak_beyond(rows: int, features: int, num_classes: int, way: str) -> None:
    """Prints what a step takes beyond input, layer and gradients, in MiB; in a fresh process."""
    size = torch.tensor([1, 10, 100, 1000, 10_000])
    start = torch.arange(num_classes)[:, None] // size * size
    table = PathTable(
        ptr=len(size) * torch.arange(num_classes + 1),
        start=start.int().reshape(-1),
        stop=(start + size).clamp(max=num_classes).int().reshape(-1),
        weight=(0.5 ** torch.arange(1.0, 6.0)).double().repeat(num_classes),
        order=None,
        position=None,
        num_classes=num_classes,
        max_entries=len(size),
    )
    x = torch.randn(rows, features, requires_grad=True)
    weight = torch.empty(num_classes, features).uniform_(-0.05, 0.05).requires_grad_()
    target = torch.randint(num_classes, (rows,))

    def descend(at: Tensor | slice, grad: Tensor) -> None:
        with torch.no_grad():
            weight[at] -= 0.1 * grad

    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = of_process("VmRSS")
    if way == "whole":
        loss = path_log_loss(linear(x, weight), target, table)
    else:
        update = descend if way == "update by tiles" else None
        loss = linear_path_log_loss(x, weight, target, table, logit_bytes=0, on_weight_grad=update)
    loss.backward()
    gradients = [part.grad for part in (x, weight) if part.grad is not None]
    own = sum(grad.numel() * grad.element_size() for grad in gradients) / 2**20
    print(json.dumps(of_process("VmHWM") - before - own))


def of_process(field: str) -> float:
    """In MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--classes", type=int, default=1_000_000, help="with --memory")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak_beyond(256, 512, options.classes, options.peak)
    elif options.memory:
        for way in ("whole", "tiles", "update by tiles"):
            command = [sys.executable, "-m", "benchmarks.heads", "--peak", way]
            command += ["--classes", str(options.classes)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{way:>16}: {json.loads(done.stdout):8,.0f} MiB")
    else:
        torch.set_num_threads(1)
        for case in CASES:
            found = ratios(*case, options.turns)
            each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found.items())
            print(f"{case[0]} x {case[1]} x {case[2] ** 3}, {case[3]}: {each}", flush=True)


if __name__ == "__main__":
    main()
