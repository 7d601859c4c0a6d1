"""What processes that share the classes exchange."""

from __future__ import annotations

from collections.abc import Sequence

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

    Args:
        group: the processes that share the classes of this process's rows; None: all.
        of_rows: the groups over which rows are spread, if they are.
        of_others: all groups that a bad target is to be an error in, besides `group`.
        alone: whether this process holds all classes, whatever `group` is.

    Attributes:
        bytes: what this process has put into all-reduces so far.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        of_rows: Sequence[dist.ProcessGroup] = (),
        of_others: Sequence[dist.ProcessGroup] = (),
        alone: bool = False,
    ) -> None:
        self.group, self.alone = group, alone
        self.of_rows, self.of_others = of_rows, of_others
        self.bytes = 0

    def rings(self, rings: Rings, bad_row: Tensor) -> Tensor:
        """The rings of all classes, in place; returns the largest `bad_row` of all processes."""
        # The verdict on the targets rides with the maxima: a process that raised before would
        # leave the others waiting.
        bad_row = bad_row.clone()
        for group in self.of_others:
            self._all_reduce(bad_row, dist.ReduceOp.MAX, group)
        if self.alone:
            return bad_row
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
        self.add_up(grad)

    def add_up(self, x: Tensor) -> None:
        """The sum over the processes that share the classes, in place."""
        if not self.alone:
            self._all_reduce(x, dist.ReduceOp.SUM)

    def sum_over_rows(self, x: Tensor) -> Tensor:
        """The sum over processes of a number that each has for its rows."""
        x = x.clone()
        for group in self.of_rows:
            self._all_reduce(x, dist.ReduceOp.SUM, group)
        return x

    def _all_reduce(
        self, x: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None = None
    ) -> None:
        self.bytes += x.numel() * x.element_size()
        dist.all_reduce(x, op=op, group=self.group if group is None else group)
