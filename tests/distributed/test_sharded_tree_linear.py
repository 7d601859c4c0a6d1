"""A TreeLinear whose nodes are spread over processes equals the layer in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
import trees
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from tree_cases import hierarchy_of

import hace
from hace.nn import TreeLinear
from hace.tables import Tables
from hace_kernels.linear import columns, interval_log_prob, topk

ROWS, FEATURES = 9, 6


def all_trees() -> Iterator[trees.Tree]:
    rng = np.random.default_rng(0)
    yield trees.balanced([3, 4, 4])
    yield trees.random_tree(rng, 50, roots=3, inner=0.3, shuffle=True)
    yield trees.random_tree(rng, 40, inner=0.1, shuffle=True)  # deep
    yield trees.flat(30)
    yield trees.chain(5)
    yield trees.flat(1)  # some processes have no class
    yield trees.Tree(np.array([-1, 0, 0, 1, 1, -1, 5]), np.array([3, 4]))  # nodes without class


LOSSES: dict[str, Any] = {
    "HACE": lambda tree, **options: hace.HACELoss(
        tree, weight=torch.rand(tree.num_classes), **options
    ),
    "nodes": lambda tree, **options: hace.HACELoss(tree, target_space="nodes", **options),
    "smoothed": lambda tree, **options: hace.HACELoss(tree, label_smoothing=0.2, **options),
    "soft": lambda tree, **options: hace.HACELoss(tree, soft_label_beta=4.0, **options),
    "r-CE": lambda tree, **options: hace.RegularizedCrossEntropyLoss(tree, 0.3, **options),
}


def two_layers(tree: hace.Hierarchy, world: int, bias: bool = True) -> tuple[TreeLinear, ...]:
    one = TreeLinear(FEATURES, tree, bias, dtype=torch.float64)
    mesh = init_device_mesh("cpu", (world,))
    many = TreeLinear(FEATURES, tree, bias, dtype=torch.float64, device_mesh=mesh)
    many.take_rows_of(one)
    return one, many


def check(one: TreeLinear, many: TreeLinear, loss_fn: Any, target: Any) -> None:
    x, results = torch.randn(ROWS, FEATURES, dtype=torch.float64), []
    for layer in (one, many):
        leaf = x.clone().requires_grad_()
        loss = loss_fn(layer(leaf), target) if layer is one else layer.loss(leaf, target, loss_fn)
        (loss * torch.linspace(1, 2, loss.numel()).view(loss.shape)).sum().backward()
        grads = []
        for parameter in layer.parameters():
            grad = parameter.grad
            if isinstance(grad, DTensor):
                assert grad.placements == (Shard(0),)
                grad = grad.full_tensor()
                grad[layer.order] = grad.clone()
            grads.append(grad)
            parameter.grad = None
        results.append([loss.detach(), leaf.grad, *grads])
    for found, wanted in zip(*results[::-1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(results[1][0], other) for other in processes.everywhere(results[1][0]))


def parity(rank: int, world: int) -> None:
    width = 1000 if rank == 1 else 7  # processes may have tiles of different widths
    for module in (columns, topk, interval_log_prob):
        module.tile_width = lambda *shape: width  # type: ignore[attr-defined]
    for shape in all_trees():
        tree = hierarchy_of(shape)
        one, many = two_layers(tree, world)
        target = torch.randint(tree.num_classes, (ROWS,))
        target[3] = -100
        of_nodes = torch.from_numpy(tree.classes[target.clamp(min=0).numpy()])
        for name, make in LOSSES.items():
            loss_fn = make(tree, reduction="none" if name == "HACE" else "mean")
            check(one, many, loss_fn, of_nodes if name == "nodes" else target)
        pair = torch.randint(tree.num_classes, (ROWS, 2)), torch.rand(ROWS, 2)
        check(one, many, hace.HACELoss(tree), pair)
        check(*two_layers(tree, world, bias=False), hace.HACELoss(tree), target)
        check_answers(one, many)


def check_answers(one: TreeLinear, many: TreeLinear) -> None:
    tree, x = one.hierarchy, torch.randn(ROWS, FEATURES, dtype=torch.float64)
    k = min(3, tree.num_classes)
    torch.testing.assert_close(many.topk(x, k), one.topk(x, k))
    assert torch.equal(many.predict(x), one.predict(x))
    nodes = torch.arange(tree.num_nodes)
    torch.testing.assert_close(many.node_log_probs(x, nodes), one.node_log_probs(x, nodes))
    for found, wanted in zip(many.gathered().parameters(), one.parameters(), strict=True):
        assert torch.equal(found, wanted)
    torch.testing.assert_close(many.to_linear()(x), one(x))


def collectives(rank: int, world: int) -> None:
    """They do not depend on what requires a gradient; one bad target is an error in all."""
    tree = hierarchy_of(trees.balanced([5, 4, 4]))
    _, many = two_layers(tree, world)
    loss_fn, calls, all_reduce = hace.HACELoss(tree), [], dist.all_reduce
    many.weight.requires_grad_(rank == 0)
    x = torch.randn(ROWS, FEATURES, dtype=torch.float64, requires_grad=True)

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *args, **kwargs)

    before = many.exchanged_bytes
    dist.all_reduce = counted
    try:
        many.loss(x, torch.arange(ROWS), loss_fn).backward()
    finally:
        dist.all_reduce = all_reduce
    assert (many.weight.grad is not None) == (rank == 0)
    # They are for vectors and biases, for maxima and sums of rings, and for gradients.
    shards = Tables.of(tree).node_shards(world)
    shared = {int(node) for other in range(1, world) for node in shards._above(other)}
    nodes = 8 * len(shared) * (FEATURES + 1)
    assert len(shared) <= 2 * (world - 1)
    assert calls[:3] == [nodes, 8 * (ROWS * 4 + 1), 8 * ROWS * 4]
    assert sum(calls[3:]) == 8 * ROWS * FEATURES + nodes
    assert len(calls) == 6
    assert many.exchanged_bytes - before == sum(calls)

    target = torch.arange(ROWS)
    if rank == world - 1:
        target[5] = 80
    with pytest.raises(IndexError, match="target of row 5 is out of range"):
        many.loss(x, target, loss_fn)


def an_update_by_tiles(rank: int, world: int) -> None:
    tree = hierarchy_of(trees.random_tree(np.random.default_rng(3), 40, inner=0.3, shuffle=True))
    one, many = two_layers(tree, world, bias=False)
    loss_fn, target = hace.HACELoss(tree), torch.arange(ROWS)
    x = torch.randn(ROWS, FEATURES, dtype=torch.float64)
    update = hace.optim.TileAdam(many.weight.to_local().detach(), lr=0.1)
    whole = torch.optim.Adam(one.parameters(), lr=0.1)
    for _ in range(3):
        whole.zero_grad()
        loss_fn(one(x), target).backward()
        whole.step()
        many.loss(x, target, loss_fn, on_weight_grad=update).backward()
        update.step()
    torch.testing.assert_close(many.gathered().weight, one.weight)


def refusals(rank: int, world: int) -> None:
    tree = hierarchy_of(trees.balanced([3, 3]))
    one, many = two_layers(tree, world)
    with pytest.raises(ValueError, match=r"use loss, topk, predict .* or gathered\(\)"):
        many(torch.randn(2, FEATURES))
    with pytest.raises(RuntimeError, match="rows in another order"):
        many.load_state_dict(one.state_dict())
    dag = hace.Hierarchy.from_edges(
        [("a", "c"), ("b", "c"), ("a", "d")], allow_multiple_parents=True
    )
    with pytest.raises(ValueError, match="needs a tree"):
        TreeLinear(FEATURES, dag, device_mesh=init_device_mesh("cpu", (world,)))
    with pytest.raises(ValueError, match="one process"):
        one.take_rows_of(many)
    with pytest.raises(ValueError, match="spread over processes"):
        hace.nn.carry_over(one, many)


def drawn(rank: int, world: int) -> None:
    """Parameters have the same bounds as in one process, and no two processes draw the same."""
    tree = hierarchy_of(trees.balanced([6, 6, 6]))
    layer = TreeLinear(16, tree, device_mesh=init_device_mesh("cpu", (world,)))
    for _ in range(2):
        rows = layer.gathered().weight
        assert rows.unique().numel() > 0.99 * rows.numel()
        largest = rows.detach().abs().amax()
        assert 0.9 < largest * (16 * 3) ** 0.5 <= 1
        layer.reset_parameters()


def saves(rank: int, world: int, folder: str) -> None:
    """Checkpoints of two processes can be loaded in four."""
    tree, mesh = hierarchy_of(trees.balanced([5, 4, 4])), init_device_mesh("cpu", (world,))
    layer = TreeLinear(FEATURES, tree, device_mesh=mesh)
    if world == 2:
        checkpoint.save(layer.state_dict(), checkpoint_id=f"{folder}/2")
        torch.save(layer.gathered().weight.detach(), Path(folder) / "2.pt")
        return
    state = layer.state_dict()
    checkpoint.load(state, checkpoint_id=f"{folder}/2")
    layer.load_state_dict(state)
    assert torch.equal(layer.gathered().weight, torch.load(Path(folder) / "2.pt"))


def everything(rank: int, world: int, folder: str) -> None:
    for work in (collectives, an_update_by_tiles, refusals, drawn, parity):
        work(rank, world)
    saves(rank, world, folder)


@pytest.mark.parametrize("worlds", [[2], pytest.param([2, 4], marks=pytest.mark.thorough)], ids=str)
def test_in_some_processes_after_others(worlds: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for world in worlds:
            processes.run(world, everything, folder)
