"""A mesh with the batch's rows over one dimension (by FSDP2 or DDP) and classes over the other."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path

import processes
import pytest
import torch
import torch.distributed.checkpoint as checkpoint
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import hace
from hace.nn import HierarchicalClassifier

CLASSES, FEATURES = 60, 8


def a_tree(ending: str = "") -> hace.Hierarchy:
    """A tree whose label order is not its depth-first order."""
    return hace.Hierarchy.from_paths(
        [f"{a}/{b}/{c}{ending}" for c in range(3) for a in range(4) for b in range(5)]
    )


def layers(mesh: DeviceMesh) -> tuple[nn.Module, HierarchicalClassifier, HierarchicalClassifier]:
    """A body, a head in one process, and the same head spread over the processes."""
    body, tree = nn.Linear(5, FEATURES), a_tree()
    one = HierarchicalClassifier(FEATURES, tree, fused=False)
    many = HierarchicalClassifier(FEATURES, tree, device_mesh=mesh["classes"])
    with torch.no_grad():
        for name, parameter in many.linear.named_parameters():
            rows = getattr(one.linear, name).detach()
            parameter.copy_(distribute_tensor(rows, mesh["classes"], [Shard(0)]))
    return body, one, many


def check(how: str, mesh: DeviceMesh, folder: str) -> None:
    body, one, many = layers(mesh)
    single, place = copy.deepcopy(body), mesh.get_local_rank("rows")
    x, target = torch.randn(8, 5), torch.randint(CLASSES, (8,))
    one(single(x), target).loss.backward()
    mine, rows = slice(4 * place, 4 * place + 4), mesh.get_group("rows")
    model = body
    if how == "FSDP2":
        fully_shard(body, mesh=mesh["rows"])
    else:
        model = DistributedDataParallel(body, process_group=rows)
    fully_shard(many, mesh=mesh["rows"])  # DDP does not accept DTensors
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        many(model(x[mine]), target[mine]).loss.backward()
    found = many.linear.weight.grad.full_tensor()
    torch.testing.assert_close(found, one.linear.weight.grad, rtol=1e-4, atol=1e-7)
    grad = body.weight.grad
    grad = grad.full_tensor() if isinstance(grad, DTensor) else grad
    torch.testing.assert_close(grad, single.weight.grad, rtol=1e-4, atol=1e-7)
    if how == "FSDP2":
        checkpoint.save(many.state_dict(), checkpoint_id=f"{folder}/square")
        torch.save(one.linear.weight.detach(), Path(folder) / "weight.pt")


def loads(folder: str, rank: int, world: int) -> None:
    """A checkpoint of a 2 x 2 mesh loads on a one-dimensional mesh, but not for another tree."""
    line, wanted = init_device_mesh("cpu", (world,)), torch.load(Path(folder) / "weight.pt")
    head = HierarchicalClassifier(FEATURES, a_tree(), device_mesh=line)
    state = head.state_dict()
    checkpoint.load(state, checkpoint_id=f"{folder}/square")
    head.load_state_dict(state)
    assert torch.equal(head.linear.weight.full_tensor(), wanted)
    other = HierarchicalClassifier(FEATURES, a_tree("of another tree"), device_mesh=line)
    state = other.state_dict()
    checkpoint.load(state, checkpoint_id=f"{folder}/square")
    with pytest.raises(RuntimeError, match=r"another hierarchy .* with other names"):
        other.load_state_dict(state)


def work(rank: int, world: int, folder: str) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "classes"))
    for how in ("FSDP2", "DDP"):
        check(how, mesh, folder)
    loads(folder, rank, world)


@pytest.mark.thorough
def test_in_four_processes_and_then_in_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        processes.run(4, work, folder)
        one = HierarchicalClassifier(FEATURES, a_tree())
        state = one.state_dict()
        checkpoint.load(state, checkpoint_id=f"{folder}/square", no_dist=True)
        one.load_state_dict(state)
        assert torch.equal(one.linear.weight.detach(), torch.load(Path(folder) / "weight.pt"))
