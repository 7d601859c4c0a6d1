"""A loss whose classes are spread over processes equals the loss in one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cases
import numpy as np
import processes
import pytest
import torch
import torch.distributed as dist
import trees
from torch.nn.functional import linear

from hace.distributed import GroupExchange
from hace_kernels.linear import Shard, columns, linear_path_log_loss, sharded_path_log_loss
from hace_kernels.ops import path_log_loss

ROWS, FEATURES = 9, 6


def all_cases() -> Iterator[tuple[str, cases.Case]]:
    rng = np.random.default_rng(0)
    yield "balanced", cases.tree_case(trees.balanced([4, 4, 4]))
    yield "random", cases.tree_case(trees.random_tree(rng, 50, roots=3, inner=0.3))
    yield "label order", cases.tree_case(trees.random_tree(rng, 50, inner=0.3, shuffle=True))
    yield "flat", cases.tree_case(trees.flat(30))
    yield "chain", cases.tree_case(trees.chain(5))


def borders(how: str, world: int, num_classes: int) -> list[int]:
    """The first column of each process, and the end of the last one."""
    if how == "even":
        return [rank * num_classes // world for rank in range(world + 1)]
    if how == "uneven":
        return [0, *(max(0, num_classes - world + rank) for rank in range(1, world + 1))]
    return [0] * world + [num_classes]  # all in the last process


def shard_of(how: str, rank: int, world: int, num_classes: int) -> Shard:
    ends = borders(how, world, num_classes)
    return Shard(ends[rank], ends[rank + 1], GroupExchange())


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    if not wanted.numel():
        return 0.0
    scale = wanted.abs().max().clamp(min=1e-30)
    return float((found.detach().double() - wanted).abs().max() / scale)


def check(
    case: cases.Case, shard: Shard, scale: float, reduction: str, options: dict[str, Any]
) -> None:
    x = torch.randn(ROWS, FEATURES)
    weight = scale * torch.randn(case.num_classes, FEATURES)
    bias = torch.randn(case.num_classes)
    target, target_weight = case.targets(ROWS), torch.rand(case.num_targets)
    target[4] = -100
    incoming = torch.rand(ROWS, dtype=torch.float64)
    options = {"target_weight": target_weight, "reduction": reduction, **options}

    exact = [part.double().requires_grad_() for part in (x, weight, bias)]
    z = linear(*exact).detach().requires_grad_()
    whole = path_log_loss(z, target, case.table, **options)
    weighted = whole @ incoming if reduction == "none" else whole
    (dz,) = torch.autograd.grad(weighted, z)
    wanted = [dz @ exact[1], dz.T @ exact[0], dz.sum(0)]
    here = slice(shard.first, shard.last)
    # The rounding error of a logit is a relative error of the gradient.
    tolerance = 2e-6 + 8 * 2.0**-24 * float(z.detach().abs().max())

    logits = z.detach()[:, here].float().requires_grad_()
    mine = [x.clone(), weight[here].clone(), bias[here].clone()]
    for part in mine:
        part.requires_grad_()
    for loss, parts, grads in (
        (
            sharded_path_log_loss(logits, target, case.table, shard, **options),
            [logits],
            [dz[:, here]],
        ),
        (
            linear_path_log_loss(
                mine[0], mine[1], target, case.table, bias=mine[2], shard=shard, **options
            ),
            mine,
            [wanted[0], wanted[1][here], wanted[2][here]],
        ),
    ):
        assert relative(loss, whole.detach()) <= tolerance
        assert all(torch.equal(loss, other) for other in processes.everywhere(loss.detach()))
        weighted = loss.double() @ incoming if reduction == "none" else loss
        for found, true in zip(torch.autograd.grad(weighted, parts), grads, strict=True):
            scale_of_all = max(float(dz.abs().max()), 1e-30) if parts[0] is logits else 0
            error = (
                float((found - true).abs().max()) / scale_of_all
                if scale_of_all and found.numel()
                else relative(found, true)
            )
            assert error <= 4 * tolerance, (error, tolerance)


def parity(rank: int, world: int) -> None:
    columns.tile_width = lambda *shape: 7
    for _, case in all_cases():
        for how in ("even", "uneven", "last"):
            shard = shard_of(how, rank, world, case.num_classes)
            for scale in (1.0, 100.0, 5000.0):
                check(case, shard, scale, "mean", {})
            for options in ({"eps": 1e-3}, {"entropy": 0.3}):
                check(case, shard, 1.0, "sum", options)
            check(case, shard, 1.0, "none", {})


def bytes_of_a_step(rank: int, world: int) -> None:
    """A step takes one MAX, one SUM and one sum of the input's gradient, in all cases."""
    case = cases.tree_case(trees.balanced([4, 4, 4]))
    shard = shard_of("even", rank, world, case.num_classes)
    x = torch.randn(ROWS, FEATURES, requires_grad=rank == 0)
    weight = torch.randn(case.num_classes, FEATURES)[shard.first : shard.last].requires_grad_()
    calls = []
    all_reduce = dist.all_reduce

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        linear_path_log_loss(x, weight, case.targets(ROWS), case.table, shard=shard).backward()
    finally:
        dist.all_reduce = all_reduce
    assert len(calls) == 3
    rings = case.table.max_entries + 1
    assert sum(calls) <= 12 * ROWS * rings + 4 * ROWS * FEATURES + 64
    assert shard.exchange.bytes == sum(calls)


def bad_targets(rank: int, world: int) -> None:
    """A bad target in one process is the same error in all processes, and none waits forever."""
    case = cases.tree_case(trees.balanced([4, 4, 4]))
    shard = shard_of("even", rank, world, case.num_classes)
    logits = torch.randn(ROWS, shard.last - shard.first)
    for value in (64, -1):
        target = torch.arange(ROWS)
        if rank == world - 1:
            target[5] = value
        with pytest.raises(IndexError, match="target of row 5 is out of range"):
            sharded_path_log_loss(logits, target, case.table, shard)
    assert sharded_path_log_loss(logits, torch.arange(ROWS), case.table, shard).isfinite()


def no_rows(rank: int, world: int) -> None:
    case = cases.tree_case(trees.balanced([4, 4, 4]))
    shard = shard_of("even", rank, world, case.num_classes)
    logits = torch.randn(0, shard.last - shard.first, requires_grad=True)
    target = torch.zeros(0, dtype=torch.int64)
    loss = sharded_path_log_loss(logits, target, case.table, shard, reduction="sum")
    loss.backward()
    assert loss == 0
    assert logits.grad.shape == logits.shape


def everything(rank: int, world: int) -> None:
    for work in (parity, bytes_of_a_step, bad_targets, no_rows):
        work(rank, world)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_processes_that_share_the_classes(world: int) -> None:
    processes.run(world, everything)
