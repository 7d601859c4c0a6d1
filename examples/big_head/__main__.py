"""Trains a head over very many classes: `python -m examples.big_head`, or over several processes
`torchrun --nproc-per-node 4 -m examples.big_head`.

Features are synthetic; the tree comes from a file, or is synthetic too. It prints what a step
takes: time, memory, and the bytes that processes exchange.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import hace
from hace.nn import HierarchicalClassifier

from .data import Batches, read_tree, synthetic_tree


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.big_head", description=__doc__)
    parser.add_argument("--tree", help="a .npz file with the array parent, or a .npy; −1 at roots")
    parser.add_argument(
        "--classes", type=int, default=1_000_000, help="classes of a synthetic tree"
    )
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--rows", type=int, default=256, help="rows per batch (256)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rate", type=float, default=2.0, help="learning rate of SGD")
    parser.add_argument(
        "--update-by-tiles",
        action="store_true",
        help="update the head in the backward, tile by tile, so that its gradient is never stored",
    )
    return parser.parse_args()


def of_process(field: str) -> float:
    """A size of this process in MiB: VmRSS, what it holds, or VmHWM, the most it has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """One run."""
    options = arguments()
    world, mesh = int(os.environ.get("WORLD_SIZE", "1")), None
    if world > 1:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (world,))
    is_first = world == 1 or dist.get_rank() == 0
    tree = read_tree(options.tree) if options.tree else synthetic_tree(options.classes)
    torch.manual_seed(0)
    body = nn.Linear(options.features, options.features)
    head = HierarchicalClassifier(
        options.features, tree, hace.HACELoss(tree, 0.5), bias=False, fused=True, device_mesh=mesh
    )
    trained = [*body.parameters()]
    optimizers: list[torch.optim.Optimizer | hace.optim.TileSGD] = []
    if options.update_by_tiles:
        weight = head.linear.weight
        rows = weight.to_local().detach() if isinstance(weight, DTensor) else weight
        head.on_weight_grad = hace.optim.TileSGD(rows, options.rate)
        optimizers.append(head.on_weight_grad)
    else:
        trained += [*head.parameters()]
    optimizers.append(torch.optim.SGD(trained, options.rate))
    batches = Batches(tree, options.features)

    held = of_process("VmRSS")
    if is_first:
        print(f"{tree!r}, {options.features} features, {world} process(es); {held:,.0f} MiB held")
    seconds, losses, loss = [], [], None
    columns = TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(
        *columns, TextColumn("loss {task.fields[loss]:.4f}"), disable=not is_first
    ) as bar:
        task = bar.add_task("", total=options.steps, loss=float("nan"))
        for _ in range(options.steps):
            x, label = batches.draw(options.rows)
            start = time.process_time()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = head(body(x), label).loss
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            seconds.append(time.process_time() - start)
            losses.append(loss.item())
            bar.update(task, advance=1, loss=losses[-1])
    mine = torch.tensor([min(seconds), of_process("VmHWM"), head.exchanged_bytes / options.steps])
    report(options, tree, losses, mine, world)
    if world > 1:
        dist.destroy_process_group()


def report(
    options: argparse.Namespace,
    tree: hace.Hierarchy,
    losses: list[float],
    mine: torch.Tensor,
    world: int,
) -> None:
    """What each process took, and what whole logits would take."""
    every = [mine]
    if world > 1:
        every = [torch.empty_like(mine) for _ in range(world)]
        dist.all_gather(every, mine)
        if dist.get_rank():
            return
    print(f"loss {losses[0]:.4f} at the first step, {losses[-1]:.4f} at the last")
    for rank, (seconds, peak, exchanged) in enumerate(every):
        print(
            f"process {rank}: {seconds:.2f} s of processor time per step, {peak:,.0f} MiB at most, "
            f"{exchanged:,.0f} bytes exchanged per step"
        )
    weight = tree.num_classes * options.features * 4 / 2**20
    logits = tree.num_classes * options.rows * 4 / 2**20
    print(
        f"in one process with whole logits (computed): {2 * weight:,.0f} MiB of weight and "
        f"gradient, {2 * logits:,.0f} MiB of logits and theirs"
    )


if __name__ == "__main__":
    main()
