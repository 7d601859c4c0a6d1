"""Losses and classifiers over processes: DTensors, plain shards, FSDP and checkpoints."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)

import hace
from hace.distributed import ClassShard
from hace.nn import HierarchicalClassifier

ROWS, CLASSES, FEATURES = 7, 60, 8
LOSSES: dict[str, Any] = {
    "HACE": hace.HACELoss,
    "CE": hace.CrossEntropyLoss,
    "HXE": hace.HXELoss,
    "path": lambda tree, **options: hace.PathLogLoss(tree, "power", **options),
    "r-CE": hace.RegularizedCrossEntropyLoss,
    "soft": lambda tree, **options: hace.HACELoss(tree, soft_label_beta=4.0, **options),
    "smoothed": lambda tree, **options: hace.HACELoss(tree, label_smoothing=0.2, **options),
}


def a_tree() -> hace.Hierarchy:
    """A tree whose label order is not its depth-first order."""
    return hace.Hierarchy.from_paths(
        [f"{a}/{b}/{c}" for c in range(3) for a in range(4) for b in range(5)]
    )


def a_batch() -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(ROWS, CLASSES, dtype=torch.float64)
    target = torch.randint(CLASSES, (ROWS,))
    target[2] = -100
    return logits, target


def whole(loss_fn: Any, logits: torch.Tensor, target: Any) -> tuple[torch.Tensor, ...]:
    """Loss, incoming gradient and gradient, computed in one process."""
    z = logits.clone().requires_grad_()
    loss = loss_fn(z, target)
    incoming = torch.rand_like(loss)
    return loss.detach(), incoming, torch.autograd.grad(loss, z, incoming)[0]


def meshes(world: int) -> list[tuple[DeviceMesh, list[Placement]]]:
    line = init_device_mesh("cpu", (world,))
    found: list[tuple[DeviceMesh, list[Placement]]] = [
        (line, [Shard(1)]),
        (line, [Shard(-1)]),
        (line, [Shard(0)]),
        (line, [Replicate()]),
    ]
    if world == 4:
        square = init_device_mesh("cpu", (2, 2))
        found += [(square, [Shard(0), Shard(1)]), (square, [Shard(1), Shard(0)])]
        found += [(square, [Replicate(), Shard(1)]), (square, [Shard(0), Shard(0)])]
    return found


def dtensors(rank: int, world: int) -> None:
    """Losses accept DTensors without changes, and gradients keep their placements."""
    tree, weight = a_tree(), torch.rand(CLASSES)
    all_meshes = meshes(world)
    for name, make in LOSSES.items():
        for reduction in ("mean", "sum", "none"):
            logits, target = a_batch()
            loss_fn = make(tree, weight=weight, reduction=reduction)
            loss, incoming, grad = whole(loss_fn, logits, target)
            for mesh, placements in all_meshes:
                z = distribute_tensor(logits, mesh, placements).requires_grad_()
                of_rows = [p if p == Shard(0) else Replicate() for p in placements]
                found = loss_fn(z, distribute_tensor(target, mesh, of_rows))
                torch.testing.assert_close(found.full_tensor(), loss)
                if reduction == "none":
                    assert list(found.placements) == of_rows
                    (found * distribute_tensor(incoming, mesh, of_rows)).sum().backward()
                else:
                    kinds = [Partial() if p == Shard(0) else Replicate() for p in placements]
                    assert list(found.placements) == kinds
                    (found * incoming.item()).backward()
                assert z.grad.placements == z.placements, name
                torch.testing.assert_close(z.grad.full_tensor(), grad)


def dtensors_of_other_shapes(rank: int, world: int) -> None:
    tree, mesh = a_tree(), init_device_mesh("cpu", (world,))
    loss_fn = hace.HACELoss(tree)
    logits, target = torch.randn(3, CLASSES, 4), torch.randint(CLASSES, (3, 4))
    loss, _, _ = whole(loss_fn, logits, target)
    for of_logits, of_target in ((1, None), (0, 0), (2, 1)):
        placement = Replicate() if of_target is None else Shard(of_target)
        found = loss_fn(
            distribute_tensor(logits, mesh, [Shard(of_logits)]),
            distribute_tensor(target, mesh, [placement]),
        )
        torch.testing.assert_close(found.full_tensor(), loss)
    pair = torch.randint(CLASSES, (ROWS, 2)), torch.rand(ROWS, 2)
    logits, target = a_batch()
    loss, _, _ = whole(loss_fn, logits, pair)
    found = loss_fn(distribute_tensor(logits, mesh, [Shard(1)]), pair)
    torch.testing.assert_close(found.full_tensor(), loss)
    # A plain target is accepted only with whole rows.
    with pytest.raises(ValueError, match="make it a DTensor"):
        loss_fn(distribute_tensor(logits, mesh, [Shard(0)]), target)
    with pytest.raises(ValueError, match="still to be summed"):
        loss_fn(DTensor.from_local(logits, mesh, [Partial()]), target)
    with pytest.raises(ValueError, match="take no probabilities"):
        loss_fn(distribute_tensor(logits, mesh, [Shard(1)]), torch.rand(ROWS, CLASSES))
    with pytest.raises(TypeError, match=r"only losses over paths.*full_tensor"):
        hace.functional.node_log_probs(distribute_tensor(logits, mesh, [Shard(1)]), tree)
    with pytest.raises(ValueError, match="no eps by tiles"):
        hace.HACELoss(tree, soft_label_beta=4.0, eps=1e-6)(
            distribute_tensor(logits, mesh, [Shard(1)]), target
        )


def a_process_without_rows(rank: int, world: int) -> None:
    tree = a_tree()
    for mesh, placements in meshes(world):
        for reduction in ("mean", "none"):
            loss_fn = hace.HACELoss(tree, reduction=reduction)
            logits, target = torch.randn(1, CLASSES), torch.tensor([7])
            loss, incoming, grad = whole(loss_fn, logits, target)
            z = distribute_tensor(logits, mesh, placements).requires_grad_()
            of_rows = [p if p == Shard(0) else Replicate() for p in placements]
            found = loss_fn(z, distribute_tensor(target, mesh, of_rows))
            torch.testing.assert_close(found.full_tensor(), loss)
            (found.sum() * incoming.item()).backward()
            assert z.grad.placements == z.placements
            torch.testing.assert_close(z.grad.full_tensor(), grad)


def bad_targets(rank: int, world: int) -> None:
    """A bad target in one process is an error in all, also in those that have other rows."""
    tree = a_tree()
    for mesh, placements in meshes(world):
        logits, target = a_batch()
        of_rows = [p if p == Shard(0) else Replicate() for p in placements]
        local = distribute_tensor(target, mesh, of_rows).to_local().clone()
        if rank == world - 1 and len(local):
            local[0] = CLASSES
        bad = DTensor.from_local(
            local, mesh, of_rows, run_check=False, shape=target.shape, stride=(1,)
        )
        error = False
        try:
            hace.HACELoss(tree)(distribute_tensor(logits, mesh, placements), bad)
        except IndexError as raised:
            error = "out of range" in str(raised)
        seen = processes.everywhere(torch.tensor(float(error)))
        last_has_rows = processes.everywhere(torch.tensor(float(len(local))))[-1] > 0
        if last_has_rows:
            assert all(seen), placements


def plain_shards(rank: int, world: int) -> None:
    tree = a_tree()
    for space in ("classes", "depth_first", "nodes"):
        loss_fn = hace.HACELoss(tree, logit_space=space)
        columns = tree.num_nodes if space == "nodes" else CLASSES
        logits, target = torch.randn(ROWS, columns), torch.randint(CLASSES, (ROWS,))
        loss, incoming, grad = whole(loss_fn, logits, target)
        shard = ClassShard(tree, logit_space=space)
        here = slice(shard.first, shard.last)
        z = logits[:, here].clone().requires_grad_()
        found = loss_fn(z, target, shard=shard)
        torch.testing.assert_close(found, loss)
        (g,) = torch.autograd.grad(found, z, incoming)
        torch.testing.assert_close(g, grad[:, here])
        layer = torch.randn(columns, FEATURES)
        x = torch.randn(ROWS, FEATURES)
        found = loss_fn.linear(x, layer[here], target, shard=shard)
        torch.testing.assert_close(found, loss_fn(x @ layer.T, target))
        if space == "nodes":
            with pytest.raises(ValueError, match="ranks classes"):
                shard.topk(z, 3)
            continue
        labels = torch.arange(CLASSES)
        if space == "depth_first":
            labels = torch.from_numpy(tree.depth_first_classes.copy())
        log_prob, position = logits.log_softmax(1).topk(25)
        best = shard.topk(z, 25)
        torch.testing.assert_close(best.log_prob, log_prob)
        assert torch.equal(best.label, labels[position])
        assert torch.equal(shard.predict(z), labels[position[:, 0]])
    logits = logits[:, :CLASSES]
    mine = logits if rank == 0 else logits[:, :0]
    functional = hace.functional.hace_loss(mine, target, tree, shard=_all_in_the_first(tree, rank))
    torch.testing.assert_close(functional, hace.HACELoss(tree)(logits, target))


def _all_in_the_first(tree: hace.Hierarchy, rank: int) -> ClassShard:
    return ClassShard(tree, first=0 if rank == 0 else CLASSES, last=CLASSES)


def shards_that_do_not_fit(rank: int, world: int) -> None:
    tree = a_tree()
    with pytest.raises(ValueError, match="each of the 60 columns once"):
        ClassShard(tree, first=0, last=30)
    with pytest.raises(ValueError, match="given in all processes or in none"):
        ClassShard(tree, first=0 if rank == 0 else None)
    shard, (logits, target) = ClassShard(tree), a_batch()
    with pytest.raises(ValueError, match="depth_first"):
        hace.HACELoss(tree, logit_space="depth_first")(logits, target, shard=shard)


def classifiers(rank: int, world: int) -> None:
    tree, mesh = a_tree(), init_device_mesh("cpu", (world,))
    loss = hace.HACELoss(tree, label_smoothing=0.1)
    one = HierarchicalClassifier(FEATURES, tree, loss, fused=False)
    many = HierarchicalClassifier(FEATURES, tree, loss, device_mesh=mesh)
    assert many.linear.weight.placements == (Shard(0),)
    bound = FEATURES**-0.5
    drawn = many.linear.weight.full_tensor()
    assert drawn.abs().max() <= bound
    assert drawn.unique().numel() > 0.99 * drawn.numel()  # no two processes draw the same
    with torch.no_grad():
        for name, parameter in many.linear.named_parameters():
            full = getattr(one.linear, name).detach()
            parameter.copy_(distribute_tensor(full, mesh, [Shard(0)]))
    x, (_, target) = torch.randn(ROWS, FEATURES), a_batch()
    results = []
    for model in (one, many):
        leaf = x.clone().requires_grad_()
        prediction = model(leaf, target)
        prediction.loss.backward()
        grads = [parameter.grad for parameter in model.parameters()]
        grads = [g.full_tensor() if isinstance(g, DTensor) else g for g in grads]
        results.append([prediction.loss, prediction.output, leaf.grad, *grads])
    for found, wanted in zip(*results[::-1], strict=True):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(many.predict(x), one.predict(x))
    for wanted, found in zip(one.topk(x, 20), many.topk(x, 20), strict=True):
        torch.testing.assert_close(found, wanted)
    nodes, of_rows = [3, 0, 17], torch.randint(tree.num_nodes, (ROWS, 2))
    for each in (nodes, of_rows):
        found = many.node_log_probs(x, each)
        torch.testing.assert_close(found, one.node_log_probs(x, each))
        assert all(torch.equal(found, other) for other in processes.everywhere(found))
    torch.testing.assert_close(many.to_linear()(x), one.to_linear()(x))
    with pytest.raises(ValueError, match="use topk"):
        many.log_prob(x)


def saves(rank: int, world: int, folder: str) -> None:
    """Checkpoints of p processes can be loaded in q processes, and in one."""
    tree, mesh = a_tree(), init_device_mesh("cpu", (world,))
    model = HierarchicalClassifier(FEATURES, tree, device_mesh=mesh)
    checkpoint.save(model.state_dict(), checkpoint_id=f"{folder}/{world}")
    whole = model.linear.weight.full_tensor()
    if rank == 0:
        torch.save(whole, Path(folder) / f"{world}.pt")
    dist.barrier()
    earlier = Path(folder) / "2.pt"
    if world != 2 and earlier.exists():
        state = model.state_dict()
        checkpoint.load(state, checkpoint_id=f"{folder}/2")
        model.load_state_dict(state)
        assert torch.equal(model.linear.weight.full_tensor(), torch.load(earlier))


def everything(rank: int, world: int, folder: str) -> None:
    works = [dtensors, dtensors_of_other_shapes, a_process_without_rows, bad_targets]
    works += [plain_shards, shards_that_do_not_fit, classifiers]
    for work in works:
        work(rank, world)
    saves(rank, world, folder)


@pytest.mark.parametrize("worlds", [[2], pytest.param([2, 4], marks=pytest.mark.thorough)], ids=str)
def test_in_some_processes_after_others(worlds: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for world in worlds:
            processes.run(world, everything, folder)
        one = HierarchicalClassifier(FEATURES, a_tree())
        state = one.state_dict()
        checkpoint.load(state, checkpoint_id=f"{folder}/{worlds[-1]}", no_dist=True)
        one.load_state_dict(state)
        assert torch.equal(
            one.linear.weight.detach(), torch.load(Path(folder) / f"{worlds[-1]}.pt")
        )
