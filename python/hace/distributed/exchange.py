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
        adds_grad_input: whether `grad_input` adds up; set to False where a reduce-scatter does that
            later.
        bytes: what this process has put into collectives so far.
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
        self.adds_grad_input = True
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
        if self.adds_grad_input:
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

    def gather(self, x: Tensor) -> list[Tensor]:
        """The tensors of all processes, which have one shape."""
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(self.group))]
        self.bytes += x.numel() * x.element_size()
        dist.all_gather(parts, x, group=self.group)
        return parts

    def reduce_scatter(self, parts: list[Tensor]) -> Tensor:
        """The sum over processes of the part that is this process's; parts have one shape."""
        own = torch.empty_like(parts[0])
        self.bytes += sum(part.numel() * part.element_size() for part in parts)
        dist.reduce_scatter(own, [part.contiguous() for part in parts], group=self.group)
        return own

    def _all_reduce(
        self, x: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None = None
    ) -> None:
        self.bytes += x.numel() * x.element_size()
        dist.all_reduce(x, op=op, group=self.group if group is None else group)
