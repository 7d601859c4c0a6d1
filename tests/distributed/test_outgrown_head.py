"""A head that is too large for the memory of one process trains over four processes."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import trees
from torch.distributed.device_mesh import init_device_mesh

import hace
from hace.nn import HierarchicalClassifier

WORLD, WIDTH, FEATURES, ROWS, STEPS = 4, 60, 64, 16, 4
# The memory beyond the process itself. The weight alone has 53 MiB, and so has its gradient.
LIMIT = 64 << 20


def a_tree() -> hace.Hierarchy:
    """A tree of 216,000 classes, three levels deep."""
    return hace.Hierarchy.from_parents(trees.balanced([WIDTH] * 3).parents)


@contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """Lets the process allocate `size` more bytes; a larger allocation is an error."""
    held = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line
    )
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(held.split()[1]) * 1024 + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def losses_of_training(tree: hace.Hierarchy, loss: Any, **layer: Any) -> torch.Tensor:
    """The losses of a training from a weight of zeros, the same for any number of processes."""
    head = HierarchicalClassifier(FEATURES, tree, loss, bias=False, **layer)
    torch.nn.init.zeros_(head.linear.weight)
    optimizer = torch.optim.SGD(head.parameters(), 20.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    target = torch.randint(tree.num_classes, (ROWS,), generator=generator)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses.append(head(x, target).loss)
        losses[-1].backward()
        optimizer.step()
    return torch.stack(losses).detach()


def in_limited_processes(rank: int, world: int, folder: str) -> None:
    tree, mesh = a_tree(), init_device_mesh("cpu", (world,)) if world > 1 else None
    loss = hace.HACELoss(tree)
    # The first step of any head allocates and keeps threads, buffers of the BLAS, and tables.
    small = hace.Hierarchy.from_parents([-1, 0, 0, 0, 0, 0])
    losses_of_training(small, hace.HACELoss(small), fused=True, device_mesh=mesh)
    HierarchicalClassifier(1, tree, loss, bias=False, device_mesh=mesh)
    with limited_memory(LIMIT):
        if world == 1:
            with pytest.raises(RuntimeError, match="can't allocate memory"):
                losses_of_training(tree, loss, fused=True)
            return
        losses = losses_of_training(tree, loss, device_mesh=mesh)
    assert all(torch.equal(losses, other) for other in processes.everywhere(losses))
    torch.save(losses, Path(folder) / f"{rank}.pt")


@pytest.mark.thorough
def test_a_head_beyond_one_process_trains_over_four() -> None:
    with tempfile.TemporaryDirectory() as folder:
        processes.run(1, in_limited_processes, folder)
        processes.run(WORLD, in_limited_processes, folder)
        losses = torch.load(Path(folder) / "0.pt")
    tree = a_tree()
    wanted = losses_of_training(tree, hace.HACELoss(tree), fused=False)
    assert wanted[-1] < wanted[0] - 1
    torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=0)
