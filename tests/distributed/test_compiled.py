"""torch.compile of losses whose classes are spread over two processes."""

from __future__ import annotations

import processes
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import hace
from hace.distributed import ClassShard
from hace.nn import HierarchicalClassifier

ROWS, FEATURES, CLASSES = 6, 5, 24


def work(rank: int, world: int) -> None:
    tree = hace.Hierarchy.from_paths(
        [f"{a}/{b}/{c}" for c in range(2) for a in range(3) for b in range(4)]
    )
    mesh, loss_fn, target = init_device_mesh("cpu", (world,)), hace.HACELoss(tree), torch.arange(6)
    body, head = torch.nn.Linear(7, FEATURES), HierarchicalClassifier(5, tree, device_mesh=mesh)

    def step(x: torch.Tensor) -> torch.Tensor:
        return 2 * head(body(x).tanh(), target).loss

    x, parameters = torch.randn(ROWS, 7), [body.weight, head.linear.weight]
    losses = step(x), torch.compile(step, backend="aot_eager")(x)
    torch.testing.assert_close(*losses)
    grads = [torch.autograd.grad(loss, parameters) for loss in losses]
    torch.testing.assert_close(*grads)

    features, logits = torch.randn(ROWS, FEATURES), torch.randn(ROWS, CLASSES)
    best = torch.compile(lambda x: head.topk(x, 3), backend="eager")(features)
    torch.testing.assert_close(best, head.topk(features, 3))
    wanted, shard = loss_fn(logits, target), ClassShard(tree)
    spread = torch.compile(lambda z: loss_fn(1 * z, target), backend="eager")
    found = spread(distribute_tensor(logits, mesh, [Shard(1)]))
    torch.testing.assert_close(found.full_tensor(), wanted)
    local = torch.compile(lambda z: loss_fn(1 * z, target, shard=shard), backend="eager")
    torch.testing.assert_close(local(logits[:, shard.first : shard.last]), wanted)


@pytest.mark.thorough
def test_the_same_numbers() -> None:
    processes.run(2, work)
