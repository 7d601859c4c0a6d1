"""Path losses of logits that are DTensors: classes over one mesh dimension, rows over others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate
from torch.distributed.tensor import Shard as ShardPlacement

from hace_kernels.eager import eager
from hace_kernels.linear import Shard, sharded_path_log_loss

from ..arguments import Target, is_index
from ..class_dim import class_dim, to_rows
from ..linear_loss import why_not_by_tiles
from .exchange import GroupExchange

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ..tables import LossTables

__all__ = ["dtensor_path_loss", "local_span"]


@eager
def dtensor_path_loss(
    input: Tensor, target: Target, weight: Tensor | None, tables: LossTables
) -> Tensor:
    """A loss of the path family, of logits that are spread over a device mesh.

    Args:
        input: logits, their classes on at most one mesh dimension and their rows on any.
        target: indices or a pair, as DTensors, or as plain tensors where no rows are spread.
        weight: (T,), or None.
        tables: of the loss.

    Returns:
        A DTensor: replicated over the classes' mesh dimension; for "sum" and "mean" partial over
        those of rows, for "none" spread over them as the targets are.

    Raises:
        ValueError: placements or targets that have no meaning here.
    """
    assert isinstance(input, DTensor)
    mesh, classes = input.device_mesh, class_dim(input)
    over_classes, over_rows = _mesh_dims(input, classes)
    lack = why_not_by_tiles(target, tables)
    if lack is not None:
        raise ValueError(f"logits that are spread over processes: {lack}")
    if not (isinstance(target, tuple) or is_index(target)):
        raise ValueError(
            "logits that are spread over processes take no probabilities: give indices or pairs, "
            "or plain logits with hace.distributed.ClassShard"
        )
    of_target = _target_placements(input.placements, over_rows, classes, is_index(target))
    local = _local_target(target, mesh, of_target, bool(over_rows))
    options = tables.options
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    logits = to_rows(input.to_local())
    keywords: dict[str, Any] = {
        "target_weight": weight,
        "ignore_index": options.ignore_index,
        "reduction": "none",
        "entropy": options.entropy,
        "eps": options.eps,
        "spread": tables.spread(weight, target, logits.device),
        "backend": options.backend,
    }
    first, last = local_span(input, classes)
    exchange = GroupExchange(
        mesh.get_group(over_classes) if over_classes is not None else None,
        of_rows=[mesh.get_group(dim) for dim in over_rows],
        of_others=[mesh.get_group(dim) for dim in range(mesh.ndim) if dim != over_classes],
        alone=over_classes is None,
    )
    table = tables.paths.on(logits.device)
    borders = _borders(input, classes, over_classes)
    shard = Shard(first, last, exchange, borders)
    losses = sharded_path_log_loss(logits, local, table, shard, **keywords)
    if options.reduction == "none":
        shape = list(input.shape)
        del shape[classes]
        local_shape = list(input.to_local().shape)
        del local_shape[classes]
        return _spread(losses.reshape(local_shape), mesh, of_target, shape)
    total = losses.sum()
    if options.reduction == "mean":
        total = total / _divisor(local, weight, options.ignore_index, exchange).to(total.dtype)
    placements: list[Placement] = [
        Partial("sum") if dim in over_rows else Replicate() for dim in range(mesh.ndim)
    ]
    return DTensor.from_local(total, mesh, placements, run_check=False)


def local_span(input: DTensor, dim: int) -> tuple[int, int]:
    """The bounds along `dim` of what this process holds."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(
        input.shape, input.device_mesh, input.placements
    )
    first = min(offset[dim], input.shape[dim])
    return first, first + shape[dim]


def _borders(input: DTensor, classes: int, over_classes: int | None) -> tuple[int, ...]:
    """Where columns change hands between processes, with 0 and their number."""
    size = input.shape[classes]
    count = 1 if over_classes is None else input.device_mesh.size(over_classes)
    each = max(1, -(-size // count))  # torch's rule for Shard
    return (*range(0, size, each), size)


def _mesh_dims(input: DTensor, classes: int) -> tuple[int | None, list[int]]:
    """The mesh dimension of the classes, if there is one, and those of rows."""
    over_classes: list[int] = []
    over_rows: list[int] = []
    for dim, placement in enumerate(input.placements):
        if placement.is_partial():
            raise ValueError(
                f"logits are still to be summed over mesh dimension {dim} (Partial): redistribute "
                "them to Replicate or Shard first"
            )
        if placement.is_shard():
            assert isinstance(placement, ShardPlacement)
            at = placement.dim % input.dim()
            (over_classes if at == classes else over_rows).append(dim)
    if len(over_classes) > 1:
        raise ValueError(
            f"classes must be on one mesh dimension, and are on {over_classes}: flatten these "
            "dimensions of the mesh, or redistribute"
        )
    return (over_classes[0] if over_classes else None), over_rows


def _target_placements(
    placements: tuple[Placement, ...], over_rows: list[int], classes: int, is_index: bool
) -> list[Placement]:
    """Where targets are: with their rows, and whole wherever classes are spread."""
    found: list[Placement] = []
    for dim, placement in enumerate(placements):
        if dim not in over_rows:
            found.append(Replicate())
            continue
        assert isinstance(placement, ShardPlacement)
        # An index target has no class dimension, a pair has one of its own.
        after = is_index and placement.dim > classes
        found.append(ShardPlacement(placement.dim - after))
    return found


def _local_target(
    target: Target, mesh: DeviceMesh, placements: list[Placement], rows_are_spread: bool
) -> Target:
    """This process's rows of the target."""

    def local(x: Tensor) -> Tensor:
        if isinstance(x, DTensor):
            return x.redistribute(mesh, placements).to_local()
        if rows_are_spread:
            raise ValueError(
                "the rows of the logits are spread over processes, and target is a plain tensor: "
                "make it a DTensor, with DTensor.from_local(target, mesh, placements) of this "
                "process's rows, or distribute_tensor of all"
            )
        return x

    if isinstance(target, tuple):
        index, mass = map(local, target)
        return to_rows(index), to_rows(mass)
    return local(target).reshape(-1)


def _divisor(
    target: Target, weight: Tensor | None, ignore_index: int, exchange: GroupExchange
) -> Tensor:
    """What a mean divides by: the weights of all rows, or for pairs the number of rows."""
    if isinstance(target, tuple):
        own = torch.tensor(float(len(target[0])), dtype=torch.float64, device=target[0].device)
    else:
        counts = target != ignore_index
        one = torch.ones((), dtype=torch.float64, device=target.device)
        each = one if weight is None else weight.double()[torch.where(counts, target, 0)]
        own = torch.where(counts, each, 0.0).sum()
    return exchange.sum_over_rows(own)


def _spread(x: Tensor, mesh: DeviceMesh, placements: list[Placement], shape: list[int]) -> DTensor:
    """Local rows as a DTensor of this shape, whose parts may be uneven."""
    stride = [1] * len(shape)
    for dim in reversed(range(len(shape) - 1)):
        stride[dim] = stride[dim + 1] * shape[dim + 1]
    return DTensor.from_local(
        x, mesh, placements, run_check=False, shape=torch.Size(shape), stride=tuple(stride)
    )
