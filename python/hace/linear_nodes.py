"""Log-probabilities of chosen nodes from a linear layer, without holding all logits at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hace_kernels.eager import eager
from hace_kernels.linear import LocalClasses, NodeSums, linear_interval_log_probs

from .hierarchy import Hierarchy
from .spaces import LogitSpace, num_columns
from .tables import Tables

if TYPE_CHECKING:
    from .distributed import ClassShard

__all__ = ["linear_node_log_probs_by_tiles"]


@eager
def linear_node_log_probs_by_tiles(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    nodes: Any,
    hierarchy: Hierarchy,
    logit_space: LogitSpace,
    *,
    shard: ClassShard | None = None,
    backend: str = "auto",
    node_sums: NodeSums | None = None,
) -> Tensor:
    """`hace.functional.linear_node_log_probs` of a layer that has been checked.

    With a shard, in depth-first order, weight and bias are its rows, and all processes call this.
    With node sums they are those of `hace.nn.TreeLinear`.
    """
    hierarchy.require_tree(
        "the log-probabilities of chosen nodes by tiles",
        "take columns of hace.functional.node_log_probs of whole logits",
    )
    each = _checked(nodes, hierarchy, input.shape[:-1])
    layout = Tables.of(hierarchy).layout(logit_space)
    start, stop = (
        torch.from_numpy(end[each.numpy()]).to(input.device) for end in (layout.start, layout.stop)
    )
    if shard is None:
        order = None if layout.column is None else torch.from_numpy(layout.column.copy())
        order = None if order is None else order.to(input.device)
        classes, exchange = LocalClasses(None, 0, order, num_columns(hierarchy, logit_space)), None
    else:
        classes, exchange = (
            LocalClasses(None, shard.first, None, shard.last - shard.first),
            shard.exchange,
        )
    rows = input if input.dim() == 2 else input[None]
    found = linear_interval_log_probs(
        rows,
        weight,
        start,
        stop,
        classes,
        bias=bias,
        exchange=exchange,
        backend=backend,
        node_sums=node_sums,
    )
    return found.reshape(*input.shape[:-1], each.shape[-1])


def _checked(nodes: Any, hierarchy: Hierarchy, rows: torch.Size) -> Tensor:
    """Node ids on the CPU, int64 (M) or with the rows before M."""
    each: Tensor = torch.as_tensor(nodes).detach().cpu()
    if each.numel() and (each.is_floating_point() or each.dtype == torch.bool):
        raise TypeError(f"nodes must be integers, the ids of nodes; got {each.dtype}")
    if each.dim() == 0 or (each.dim() > 1 and each.shape[:-1] != rows):
        raise ValueError(
            f"nodes must be (M), the same for all rows, or ({', '.join(map(str, rows))}, M), each "
            f"row's own; got {tuple(each.shape)}"
        )
    bad = each[(each < 0) | (each >= hierarchy.num_nodes)]
    if len(bad):
        raise IndexError(
            f"there is no node {int(bad[0])}; node ids are 0 to {hierarchy.num_nodes - 1}"
        )
    return each.long()
