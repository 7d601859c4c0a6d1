"""A linear layer whose rows are distributed over processes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["draw_rows", "local_part", "sharded_linear", "whole"]


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
            f"device_mesh must have one dimension, that of the classes, but has {mesh.ndim}: give "
            "the submesh, mesh['name']"
        )
    each = -(-out_features // mesh.size())
    here = max(0, min(each, out_features - each * mesh.get_local_rank()))
    generator = _generator(mesh)

    def parameter(*shape: int) -> nn.Parameter:
        local = torch.empty(here, *shape[1:], dtype=dtype)
        _draw(local, in_features, generator)
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


def draw_rows(parameter: Tensor, in_features: int) -> None:
    """Draws a weight or bias as `nn.Linear` does; a process draws its part of a DTensor."""
    if not hasattr(parameter, "device_mesh"):
        _draw(parameter, in_features, None)
        return
    part = local_part(parameter)
    drawn = torch.empty(part.shape, dtype=part.dtype)
    _draw(drawn, in_features, _generator(parameter.device_mesh))
    with torch.no_grad():
        part.copy_(drawn)


def _draw(x: Tensor, in_features: int, generator: torch.Generator | None) -> None:
    bound = 1 / math.sqrt(in_features) if in_features else 0.0
    nn.init.uniform_(x, -bound, bound, generator)


def _generator(mesh: DeviceMesh) -> torch.Generator:
    """From torch's seed and the position of this process, so that no two draw the same."""
    generator = torch.Generator()
    return generator.manual_seed(torch.initial_seed() + 7919 * (1 + mesh.get_local_rank()))


def local_part(parameter: Tensor) -> Tensor:
    """This process's part of a DTensor; a plain tensor is returned as it is."""
    part: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return part


def whole(parameter: Tensor) -> Tensor:
    """All of a DTensor, gathered; a plain tensor is returned as it is."""
    full: Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return full
