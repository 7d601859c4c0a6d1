"""Classes over processes that each have rows of their own, as from a data-parallel body."""

from __future__ import annotations

import copy
from typing import Any

import processes
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import hace
from hace.nn import HierarchicalClassifier

CLASSES, FEATURES = 60, 8


def a_tree() -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(
        [f"{a}/{b}/{c}" for c in range(3) for a in range(4) for b in range(5)]
    )


def sizes(how: str, world: int) -> list[int]:
    """The number of rows of each process."""
    if how == "even":
        return [3] * world
    return [0, 5, 2, 1][:world]


def heads(world: int, **options: Any) -> tuple[HierarchicalClassifier, HierarchicalClassifier]:
    tree, mesh = a_tree(), init_device_mesh("cpu", (world,))
    loss = hace.HACELoss(tree, **options)
    one = HierarchicalClassifier(FEATURES, tree, loss, fused=False)
    many = HierarchicalClassifier(FEATURES, tree, loss, device_mesh=mesh, rows="sharded")
    with torch.no_grad():
        for name, parameter in many.linear.named_parameters():
            rows = getattr(one.linear, name).detach()
            parameter.copy_(distribute_tensor(rows, mesh, [Shard(0)]))
    return one, many


def losses_and_gradients(rank: int, world: int) -> None:
    for how in ("even", "uneven"):
        ends = torch.tensor([0, *sizes(how, world)]).cumsum(0).tolist()
        mine, rows = slice(ends[rank], ends[rank + 1]), ends[-1]
        for kind in ("index", "pairs", "none"):
            one, many = heads(world, reduction="none" if kind == "none" else "mean")
            target: Any = torch.randint(CLASSES, (rows,))
            target[1] = -100
            own: Any = target[mine]
            if kind == "pairs":
                target = torch.randint(CLASSES, (rows, 2)), torch.rand(rows, 2)
                own = target[0][mine], target[1][mine]
            x = torch.randn(rows, FEATURES)
            here, whole = x[mine].clone().requires_grad_(), x.clone().requires_grad_()
            found, wanted = many(here, own), one(whole, target)
            incoming = torch.rand_like(wanted.loss)
            if kind == "none":
                torch.testing.assert_close(found.loss, wanted.loss[mine])
                found.loss.backward(incoming[mine])
            else:
                torch.testing.assert_close(found.loss, wanted.loss)
                found.loss.backward(incoming)
            wanted.loss.backward(incoming)
            if kind != "pairs":
                torch.testing.assert_close(found.output, wanted.output[mine])
            torch.testing.assert_close(here.grad, world * whole.grad[mine])
            grad = many.linear.weight.grad.full_tensor()
            torch.testing.assert_close(grad, one.linear.weight.grad)


def a_data_parallel_body(rank: int, world: int) -> None:
    """DDP's mean over processes is the gradient of the loss of all rows."""
    one, many = heads(world)
    body = nn.Linear(5, FEATURES)
    single, model = copy.deepcopy(body), DistributedDataParallel(body)
    x, target = torch.randn(3 * world, 5), torch.randint(CLASSES, (3 * world,))
    mine = slice(3 * rank, 3 * rank + 3)
    before = many.exchanged_bytes
    many(model(x[mine]), target[mine]).loss.backward()
    # The collectives: numbers of rows, features and targets, rings, and a reduce-scatter of the
    # input's gradient.
    rows, entries = 3 * world, 3
    gathered = 8 + 3 * (4 * FEATURES + 8)
    sums = 12 * rows * (entries + 1) + 4 + 4 * rows * FEATURES
    assert many.exchanged_bytes - before == gathered + sums
    one(single(x), target).loss.backward()
    torch.testing.assert_close(body.weight.grad, single.weight.grad)


def answers(rank: int, world: int) -> None:
    one, many = heads(world)
    ends = torch.tensor([0, *sizes("uneven", world)]).cumsum(0).tolist()
    mine, x = slice(ends[rank], ends[rank + 1]), torch.randn(ends[-1], FEATURES)
    for found, wanted in zip(many.topk(x[mine], 4), one.topk(x, 4), strict=True):
        torch.testing.assert_close(found, wanted[mine])
    assert torch.equal(many.predict(x[mine]), one.predict(x)[mine])
    for nodes in (torch.tensor([0, 7]), torch.randint(one.hierarchy.num_nodes, (len(x), 2))):
        own = nodes[mine] if nodes.dim() == 2 else nodes
        torch.testing.assert_close(
            many.node_log_probs(x[mine], own), one.node_log_probs(x, nodes)[mine]
        )


def faults(rank: int, world: int) -> None:
    _, many = heads(world)
    target = torch.arange(3)
    if rank == world - 1:
        target[1] = CLASSES
    with pytest.raises(IndexError, match=f"target of row {3 * world - 2} is out of range"):
        many(torch.randn(3, FEATURES), target)
    with pytest.raises(ValueError, match="probabilities do not go with"):
        many(torch.randn(3, FEATURES), torch.rand(3, CLASSES))
    with pytest.raises(ValueError, match="input must be"):
        many(torch.randn(FEATURES), torch.tensor(1))
    with pytest.raises(ValueError, match="'sharded' with a device_mesh"):
        HierarchicalClassifier(FEATURES, a_tree(), rows="sharded")


def everything(rank: int, world: int) -> None:
    for work in (losses_and_gradients, a_data_parallel_body, answers, faults):
        work(rank, world)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_processes_with_rows_of_their_own(world: int) -> None:
    processes.run(world, everything)
