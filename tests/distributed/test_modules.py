"""Layers and losses work with DDP and FSDP2, in two processes."""

from __future__ import annotations

import copy
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import hace
from hace.nn import HierarchicalClassifier, TreeLinear

WORLD = 2
THOROUGH = pytest.mark.thorough
PATHS = ["animal/dog/husky", "vehicle/car", "animal/cat", "animal/dog/pug", "vehicle/bus", "animal"]

Layer = HierarchicalClassifier | TreeLinear
KINDS: dict[str, type[Any]] = {"classifier": HierarchicalClassifier, "TreeLinear": TreeLinear}


def tree() -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(PATHS)


def loss_of(layer: Any, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    found = layer(x) if not isinstance(layer, HierarchicalClassifier) else None
    if found is None:
        return layer(x, target).loss
    return hace.HACELoss(tree())(found, target)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 5), torch.randint(6, (8,))


def plain_model(kind: str) -> Any:
    torch.manual_seed(1)
    return KINDS[kind](5, tree())


@pytest.mark.parametrize("kind", ["classifier", pytest.param("TreeLinear", marks=THOROUGH)])
def test_ddp(kind: str) -> None:
    """The mean of the gradients over processes is the gradient of the whole batch."""
    processes.run(WORLD, _ddp, kind)


def _ddp(rank: int, world: int, kind: str) -> None:
    plain = plain_model(kind)
    model = DistributedDataParallel(copy.deepcopy(plain))
    x, target = batch()
    mine = slice(rank * 4, rank * 4 + 4)
    found = model(x[mine], target[mine]).loss if kind == "classifier" else model(x[mine])
    if kind != "classifier":
        found = hace.HACELoss(tree())(found, target[mine])
    found.backward()
    loss_of(plain, x, target).backward()
    for (name, one), (_, other) in zip(
        model.module.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["TreeLinear", pytest.param("classifier", marks=THOROUGH)])
def test_fsdp_from_meta(kind: str) -> None:
    """A model is made without memory, sharded, and loaded from a checkpoint of one process."""
    processes.run(WORLD, _fsdp_from_meta, kind)


def _fsdp_from_meta(rank: int, world: int, kind: str) -> None:
    plain = plain_model(kind)
    state = copy.deepcopy(plain.state_dict())  # the modules are distributed in place
    model = KINDS[kind](5, tree(), device="meta")
    fully_shard(model)
    model.to_empty(device="cpu")
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)
    set_model_state_dict(model, state, options=options)
    x, target = batch()
    if kind == "classifier":
        assert torch.equal(model(x, target).output, plain(x, target).output)
        loss = model(x, target).loss
    else:
        torch.testing.assert_close(model(x), plain(x), rtol=0, atol=0)
        loss = hace.HACELoss(tree())(model(x), target)
    loss.backward()
    loss_of(plain, x, target).backward()
    grads = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.full_tensor(), grads[name].grad)
    gathered = get_model_state_dict(model, options=options)
    for key, value in plain.state_dict().items():
        assert torch.equal(gathered[key].cpu(), value), key


@THOROUGH
def test_a_checkpoint_for_another_tree_is_refused_in_every_process() -> None:
    processes.run(WORLD, _refused)


def _refused(rank: int, world: int) -> None:
    state = plain_model("TreeLinear").state_dict()
    other = hace.Hierarchy.from_paths(PATHS[::-1])
    model = TreeLinear(5, other, device="meta")
    fully_shard(model)
    model.to_empty(device="cpu")
    with pytest.raises(RuntimeError, match="another hierarchy"):
        set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))
    dist.barrier()
