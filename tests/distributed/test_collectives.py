"""The number and the bytes of the collectives of a training step, for any number of processes.

torch's fake process group runs only one of the processes. Values mean nothing then, but the
collectives are the same as in every process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cases
import numpy as np
import pytest
import torch
import torch.distributed as dist
import trees
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate
from torch.distributed.tensor import Shard as ShardPlacement
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

import hace
from hace.distributed import GroupExchange
from hace.nn import HierarchicalClassifier
from hace_kernels.linear import Shard, linear_path_log_loss

ROWS, FEATURES = 12, 16


@contextmanager
def one_of(world: int, rank: int) -> Iterator[None]:
    """Makes this process one of many in a fake process group."""
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


class Collectives(TorchDispatchMode):
    """Records the name and the bytes of every collective that PyTorch's dispatcher sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace in ("c10d", "_c10d_functional") and not name.startswith("wait"):
            tensors = args[0] if isinstance(args[0], list) else [args[0]]
            size = sum(x.numel() * x.element_size() for x in tensors)
            self.calls.append((name, size))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["index", "pairs"])
@pytest.mark.parametrize("needs", ["input", "weight", "both"])
@pytest.mark.parametrize("world", [1, 8, 64])
def test_a_step_is_three_all_reduces(world: int, needs: str, kind: str) -> None:
    """A step sends 12 · B · (K + 1) + 4 · B · F + 4 bytes, whichever gradients are needed."""
    rng = np.random.default_rng(0)
    case = cases.tree_case(trees.random_tree(rng, 300, inner=0.3, shuffle=True))
    rank, num_classes = world // 2, case.num_classes
    first, last = rank * num_classes // world, (rank + 1) * num_classes // world
    x = torch.randn(ROWS, FEATURES, requires_grad=needs != "weight")
    weight = torch.randn(last - first, FEATURES, requires_grad=needs != "input")
    target: Any = case.targets(ROWS)
    paths = 1
    if kind == "pairs":
        target, paths = (target[:, None].expand(-1, 2), torch.rand(ROWS, 2)), 2
    with one_of(world, rank), Collectives() as seen:
        exchange = GroupExchange()
        shard = Shard(first, last, exchange)
        linear_path_log_loss(x, weight, target, case.table, shard=shard).backward()
    rings = 12 * paths * ROWS * (case.table.max_entries + 1)
    assert [name for name, _ in seen.calls] == 3 * ["allreduce_"]
    assert sum(size for _, size in seen.calls) == rings + 4 * ROWS * FEATURES + 4
    assert exchange.bytes == sum(size for _, size in seen.calls)


PATHS = [f"{a}/{b}/{c}" for c in range(3) for a in range(5) for b in range(5)]


def test_logits_over_a_mesh_of_64() -> None:
    """With rows and classes over 8 processes each, checking targets takes a single number."""
    tree = hace.Hierarchy.from_paths(PATHS)
    with one_of(64, 9):
        mesh = init_device_mesh("cpu", (8, 8))
        of_logits: list[Placement] = [ShardPlacement(0), ShardPlacement(1)]
        local = torch.randn(ROWS, 10)
        shape = torch.Size((8 * ROWS, len(PATHS)))
        logits = DTensor.from_local(
            local, mesh, of_logits, run_check=False, shape=shape, stride=(len(PATHS), 1)
        ).requires_grad_()
        target = DTensor.from_local(
            torch.arange(ROWS),
            mesh,
            [ShardPlacement(0), Replicate()],
            run_check=False,
            shape=torch.Size((8 * ROWS,)),
            stride=(1,),
        )
        with Collectives() as seen:
            loss = hace.HACELoss(tree)(logits, target)
            (grad,) = torch.autograd.grad(loss, logits)  # torch 2.11 makes `logits.grad` whole
    assert grad.placements == tuple(of_logits)
    entries = 3  # per path: a/b/c, a/b and a
    sizes = [size for _, size in seen.calls]
    assert [name for name, _ in seen.calls] == 4 * ["allreduce_"], seen.calls
    assert sum(sizes) <= 12 * ROWS * (entries + 1) + 64


@pytest.mark.parametrize("world", [8, 64])
def test_a_step_of_a_classifier(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets' log-probabilities come with the loss and need no additional bytes."""
    tree = hace.Hierarchy.from_paths(PATHS)
    monkeypatch.setattr(
        "hace.distributed.class_shard._checked",
        lambda first, last, columns, group: (first, last, (0, columns)),
    )
    with one_of(world, 1):
        mesh = init_device_mesh("cpu", (world,))
        head = HierarchicalClassifier(FEATURES, tree, device_mesh=mesh)
        x = torch.randn(ROWS, FEATURES, requires_grad=True)
        with Collectives() as seen:
            prediction = head(x, torch.arange(ROWS))
            prediction.loss.backward()
        assert prediction.output.shape == (ROWS,)
    assert [name for name, _ in seen.calls] == 3 * ["allreduce_"], seen.calls
    assert sum(size for _, size in seen.calls) <= 12 * ROWS * (3 + 1) + 4 * ROWS * FEATURES + 64
