"""The memory of a step beyond its input, its layer and their gradients, in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from hace_kernels import PathTable, linear_path_log_loss, path_log_loss

__all__ = ["WAYS", "peak_mib"]

#: Whole logits; by tiles; by tiles, with the weight's update in the backward.
WAYS = ("whole", "tiles", "update by tiles")

ROWS, FEATURES = 256, 512


def peak_mib(way: str, num_classes: int) -> float:
    """The memory of a step with `ROWS` × `FEATURES` × C, in MiB."""
    command = [sys.executable, "-m", "benchmarks.heads.peak", way, str(num_classes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def of_this_process(way: str, num_classes: int) -> float:
    """The same, measured in a fresh process."""
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
    x = torch.randn(ROWS, FEATURES, requires_grad=True)
    weight = torch.empty(num_classes, FEATURES).uniform_(-0.05, 0.05).requires_grad_()
    target = torch.randint(num_classes, (ROWS,))

    def descend(at: Tensor | slice, grad: Tensor) -> None:
        with torch.no_grad():
            weight[at] -= 0.1 * grad

    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = _of_status("VmRSS")
    if way == "whole":
        loss = path_log_loss(linear(x, weight), target, table)
    else:
        update = descend if way == "update by tiles" else None
        loss = linear_path_log_loss(x, weight, target, table, logit_bytes=0, on_weight_grad=update)
    torch.autograd.backward(loss)
    gradients = [part.grad for part in (x, weight) if part.grad is not None]
    own = sum(grad.numel() * grad.element_size() for grad in gradients) / 2**20
    return _of_status("VmHWM") - before - own


def _of_status(field: str) -> float:
    """In MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


if __name__ == "__main__":
    print(json.dumps(of_this_process(sys.argv[1], int(sys.argv[2]))))
