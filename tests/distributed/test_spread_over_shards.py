"""Targets that are spread over all classes, with classes that are spread over processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import processes
import pytest
import torch
import torch.distributed as dist
import tree_cases
import trees
from torch.nn.functional import linear

import hace
from hace.distributed import ClassShard
from hace_kernels.linear import columns

ROWS, FEATURES = 9, 6

KINDS: dict[str, dict[str, Any]] = {
    "uniform": {"label_smoothing": 0.1},
    "others": {"label_smoothing": 0.3, "smoothing": "others"},
    "nodes": {"label_smoothing": 0.3, "smoothing": "nodes"},
    "soft": {"soft_label_beta": 4.0},
    "probabilities": {"label_smoothing": 0.1},
}


def all_trees() -> Iterator[tuple[str, trees.Tree]]:
    rng = np.random.default_rng(0)
    yield "balanced", trees.balanced([4, 4, 4])
    yield "random", trees.random_tree(rng, 50, roots=3, inner=0.3)
    yield "label order", trees.random_tree(rng, 50, inner=0.3, shuffle=True)
    yield "flat", trees.flat(30)
    yield "chain", trees.chain(5)


def bounds(how: str, rank: int, world: int, num_classes: int) -> tuple[int, int]:
    """The bounds of the columns of a process."""
    if how == "even":
        return rank * num_classes // world, (rank + 1) * num_classes // world
    if how == "uneven":
        ends = [0, *(max(0, num_classes - world + each) for each in range(1, world + 1))]
        return ends[rank], ends[rank + 1]
    return 0 if rank == world - 1 else num_classes, num_classes


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    if not wanted.numel():
        return 0.0
    return float((found.detach().double() - wanted).abs().max() / wanted.abs().max().clamp(1e-9))


def check(tree: hace.Hierarchy, shard: ClassShard, kind: str, scale: float, reduction: str) -> None:
    num_classes = tree.num_classes
    x, weight = torch.randn(ROWS, FEATURES), scale * torch.randn(num_classes, FEATURES)
    loss_fn = hace.HACELoss(
        tree,
        0.6,
        reduction=reduction,
        weight=None if kind == "nodes" else torch.rand(num_classes),
        **KINDS[kind],
    )
    target, incoming = torch.randint(num_classes, (ROWS,)), torch.rand(ROWS, dtype=torch.float64)
    target[4] = -100
    if kind == "probabilities":
        target = torch.rand(ROWS, num_classes).softmax(1)
    exact = [part.double().requires_grad_() for part in (x, weight)]
    z = linear(*exact)
    loss = loss_fn(z, target)
    incoming = incoming if reduction == "none" else torch.ones((), dtype=torch.float64)
    wanted = torch.autograd.grad(loss, [z, *exact], incoming)
    here = slice(shard.first, shard.last)
    tolerance = 4e-6 + 8 * 2.0**-24 * float(z.detach().abs().max())

    logits = z.detach()[:, here].float().requires_grad_()
    found = loss_fn(logits, target, shard=shard)
    assert error(found, loss.detach()) <= tolerance
    assert all(torch.equal(found, other) for other in processes.everywhere(found.detach()))
    (grad,) = torch.autograd.grad(found, logits, incoming.float())
    of_all = float(wanted[0].abs().max().clamp(1e-9))
    worst = float((grad - wanted[0][:, here]).abs().max()) / of_all if grad.numel() else 0.0
    assert worst <= 4 * tolerance, (worst, tolerance)
    mine = [x.clone().requires_grad_(), weight[here].clone().requires_grad_()]
    found = loss_fn.linear(*mine[:2], target, shard=shard)
    assert error(found, loss.detach()) <= tolerance
    grads = torch.autograd.grad(found, mine, incoming.float())
    for one, two in zip(grads, (wanted[1], wanted[2][here]), strict=True):
        assert error(one, two) <= 4 * tolerance


def parity(rank: int, world: int) -> None:
    columns.tile_width = lambda *shape: 7
    for _, tree in all_trees():
        hierarchy = tree_cases.hierarchy_of(tree)
        for how in ("even", "uneven", "last"):
            first, last = bounds(how, rank, world, hierarchy.num_classes)
            shard = ClassShard(hierarchy, first=first, last=last)
            for scale in (1.0, 100.0, 5000.0) if how == "even" else (1.0,):
                check(hierarchy, shard, "uniform", scale, "mean")
            check(hierarchy, shard, "others", 1.0, "none")
            check(hierarchy, shard, "nodes", 1.0, "sum")
            check(hierarchy, shard, "soft", 1.0, "mean")
            check(hierarchy, shard, "probabilities", 100.0, "none")


def pairs(rank: int, world: int) -> None:
    tree = tree_cases.hierarchy_of(trees.random_tree(np.random.default_rng(1), 50, shuffle=True))
    for options in ({"label_smoothing": 0.2}, {"soft_label_beta": 4.0}):
        check_pairs(tree, hace.HACELoss(tree, **options))


def check_pairs(tree: hace.Hierarchy, loss_fn: hace.HACELoss) -> None:
    shard, num_classes = ClassShard(tree), tree.num_classes
    z = torch.randn(ROWS, num_classes, dtype=torch.float64)
    pair = torch.randint(num_classes, (ROWS, 3)), torch.rand(ROWS, 3)
    pair[0][2, 0] = -100
    local = z[:, shard.first : shard.last].clone().requires_grad_()
    z.requires_grad_()
    one, two = loss_fn(local, pair, shard=shard), loss_fn(z, pair)
    torch.testing.assert_close(one, two)
    (found,), (wanted,) = torch.autograd.grad(one, local), torch.autograd.grad(two, z)
    torch.testing.assert_close(found, wanted[:, shard.first : shard.last])


def classes_without_mass(rank: int, world: int) -> None:
    tree = tree_cases.hierarchy_of(trees.balanced([4, 4, 4]))
    shard, loss_fn = ClassShard(tree), hace.HACELoss(tree, label_smoothing=0.2, reduction="none")
    z, target = torch.randn(ROWS, 64), torch.randint(64, (ROWS,))
    z[1, 8:40], z[2, 32:], z[3], z[4, 0] = -torch.inf, -torch.inf, -torch.inf, torch.nan
    here = slice(shard.first, shard.last)
    local = z[:, here].clone().requires_grad_()
    z.requires_grad_()
    one, two = loss_fn(local, target, shard=shard), loss_fn(z, target)
    torch.testing.assert_close(one, two, equal_nan=True)
    (found,), (wanted,) = (
        torch.autograd.grad(loss, of, torch.ones(ROWS)) for loss, of in ((one, local), (two, z))
    )
    torch.testing.assert_close(found, wanted[:, here], equal_nan=True)


def bytes_of_a_step(rank: int, world: int) -> None:
    """There are as many collectives as without smoothing; nodes that cross borders add bytes."""
    tree = tree_cases.hierarchy_of(trees.balanced([5, 4, 4]))
    shard, loss_fn = ClassShard(tree), hace.HACELoss(tree, label_smoothing=0.2)
    calls = []
    all_reduce = dist.all_reduce

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *args, **kwargs)

    x = torch.randn(ROWS, FEATURES, requires_grad=rank == 0)
    weight = torch.randn(shard.last - shard.first, FEATURES, requires_grad=True)
    dist.all_reduce = counted
    try:
        loss_fn.linear(x, weight, torch.randint(80, (ROWS,)), shard=shard).backward()
    finally:
        dist.all_reduce = all_reduce
    assert len(calls) == 3
    ends = [each * 80 // world for each in range(1, world)]
    crossing = sum(len({end // size for end in ends if end % size}) for size in (4, 16))
    rings = 3 + 1 + crossing + 2
    assert sum(calls) <= 12 * ROWS * rings + 4 * ROWS * FEATURES + 64
    assert shard.exchange.bytes == sum(calls)


def everything(rank: int, world: int) -> None:
    for work in (bytes_of_a_step, pairs, classes_without_mass, parity):
        work(rank, world)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_processes_that_share_the_classes(world: int) -> None:
    processes.run(world, everything)
