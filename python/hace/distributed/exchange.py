"""What processes that share the classes exchange."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from hace_kernels.row_paths import Rings

__all__ = ["GroupExchange"]


class GroupExchange:
    """Sums over the processes of a group, in the order that `hace_kernels.linear.Exchange` says.

    A step takes one MAX and one SUM all-reduce of the rings, and one SUM of the input's gradient
    where there is a layer: 12 · B · (K + 1) + 4 · B · F + 4 bytes for float32, where K is the
    number of entries of the longest path.

    Attributes:
        group: of torch.distributed.
        bytes: what this process has put into all-reduces so far.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.bytes = 0

    def rings(self, rings: Rings, bad_row: Tensor) -> Tensor:
        """The rings of all classes, in place; returns the largest `bad_row`."""
        # The verdict on the targets rides with the maxima: a process that raised before would
        # leave the others waiting.
        largest = torch.cat([rings.max.flatten(), bad_row[None].to(rings.max)])
        self._all_reduce(largest, dist.ReduceOp.MAX)
        highest = largest[:-1].view_as(rings.max)
        lowest = torch.finfo(rings.max.dtype).min
        gap = rings.max.clamp(min=lowest).double() - highest.clamp(min=lowest).double()
        scale = gap.exp()
        sums = [scale * rings.sum]
        if rings.moment is not None:
            moved = scale * (rings.moment + gap * rings.sum)
            sums.append(torch.where(scale == 0, 0.0, moved))
        total = torch.stack(sums)
        self._all_reduce(total, dist.ReduceOp.SUM)
        rings.max.copy_(highest)
        rings.sum.copy_(total[0])
        if rings.moment is not None:
            rings.moment.copy_(total[1])
        return largest[-1]

    def grad_input(self, grad: Tensor) -> None:
        """The whole gradient of the layer's input, in place."""
        self._all_reduce(grad, dist.ReduceOp.SUM)

    def _all_reduce(self, x: Tensor, op: dist.ReduceOp.RedOpType) -> None:
        self.bytes += x.numel() * x.element_size()
        dist.all_reduce(x, op=op, group=self.group)
