"""HACE beside cross-entropy on images: logits (N, C, H, W), contiguous and channels last.

    python -m benchmarks.segmentation
    python -m benchmarks.segmentation --shape 2 21 512 512

A step is a forward and a backward. Times are processor seconds of one thread, the fastest of
several steps that take turns. The classes are not in depth-first order, as in data sets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hace

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
TARGETS = ("labels", "labels, a fifth of them void", "label smoothing", "probabilities")


def some_hierarchy(num_classes: int, seed: int = 0) -> hace.Hierarchy:
    """Classes in groups of four, these in groups of about two and a half and so on, shuffled."""
    paths = np.array([f"{c // 50}/{c // 10}/{c // 4}/{c}" for c in range(num_classes)])
    return hace.Hierarchy.from_paths(np.random.default_rng(seed).permutation(paths).tolist())


def target_of(kind: str, shape: torch.Size, layout: torch.memory_format) -> Tensor:
    if kind == "probabilities":
        return torch.rand(shape).softmax(1).contiguous(memory_format=layout)
    images, num_classes, height, width = shape
    labels = torch.randint(num_classes, (images, height, width))
    if kind.endswith("void"):
        labels[:, : height // 5] = -100
    return labels


def step(loss_fn: Callable[[Tensor, Tensor], Tensor], x: Tensor, target: Tensor) -> None:
    x.grad = None
    loss_fn(x, target).backward()  # type: ignore[no-untyped-call]


def seconds(steps: Mapping[str, Callable[[], None]], repeat: int) -> dict[str, float]:
    """The smallest processor time of each step; the steps take turns."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(repeat + 1):
        for name, run in steps.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.segmentation", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--shape", type=int, nargs=4, default=[4, 150, 128, 128], help="N C H W")
    parser.add_argument("--repeat", type=int, default=5, help="steps, the fastest of which counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    shape = torch.Size(options.shape)
    hierarchy = some_hierarchy(shape[1])
    print(f"logits {tuple(shape)}, float32; milliseconds of a step")
    print(f"{'layout':14} {'targets':30} {'cross-entropy':>13} {'HACE':>8} {'ratio':>6}")
    for layout, memory_format in LAYOUTS.items():
        logits = torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_()
        for kind in TARGETS:
            target = target_of(kind, shape, memory_format)
            keywords: dict[str, Any] = {}
            if kind == "label smoothing":
                keywords["label_smoothing"] = 0.1
            losses = {
                "cross-entropy": torch.nn.CrossEntropyLoss(**keywords),
                "HACE": hace.HACELoss(hierarchy, **keywords),
            }
            steps = {name: partial(step, loss, logits, target) for name, loss in losses.items()}
            found = seconds(steps, options.repeat)
            theirs, ours = found["cross-entropy"], found["HACE"]
            print(
                f"{layout:14} {kind:30} {theirs * 1e3:13.1f} {ours * 1e3:8.1f} "
                f"{ours / theirs:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
