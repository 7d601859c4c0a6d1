"""A linear layer whose rows are spread over processes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["local_part", "sharded_linear", "whole"]


def sharded_linear(
    in_features: int,
    out_features: int,
    bias: bool,
    mesh: DeviceMesh,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Linear:
    """An `nn.Linear` of DTensors with `Shard(0)` over a mesh of one dimension.

    No process ever holds the rows of another. Parameters are initialised as by `nn.Linear`, from
    torch's seed and the position of each process in the mesh.

    Raises:
        ValueError: the mesh has several dimensions.
    """
    from torch.distributed.tensor import DTensor, Shard

    if mesh.ndim != 1:
        raise ValueError(
            f"device_mesh must have one dimension, that of the classes, and has {mesh.ndim}: give "
            "the submesh, mesh['name']"
        )
    each = -(-out_features // mesh.size())
    here = max(0, min(each, out_features - each * mesh.get_local_rank()))
    bound = 1 / math.sqrt(in_features) if in_features else 0.0
    generator = torch.Generator()
    generator.manual_seed(torch.initial_seed() + 7919 * (1 + mesh.get_local_rank()))

    def parameter(*shape: int) -> nn.Parameter:
        local = torch.empty(here, *shape[1:], dtype=dtype)
        local.uniform_(-bound, bound, generator=generator)
        stride = torch.empty(shape, device="meta").stride()
        return nn.Parameter(
            DTensor.from_local(
                local.to(device),
                mesh,
                [Shard(0)],
                run_check=False,
                shape=torch.Size(shape),
                stride=stride,
            )
        )

    linear = nn.Linear(in_features, out_features, bias=bias, device="meta")
    linear.weight = parameter(out_features, in_features)
    if bias:
        linear.bias = parameter(out_features)
    return linear


def local_part(parameter: Tensor) -> Tensor:
    """This process's part of a DTensor; a plain tensor is returned as it is."""
    part: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return part


def whole(parameter: Tensor) -> Tensor:
    """All of a DTensor, gathered; a plain tensor is returned as it is."""
    full: Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return full
