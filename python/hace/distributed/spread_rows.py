"""Rows of a batch that are spread over the processes which share the classes.

Where a body runs data-parallel on the same processes, each has rows of its own. A head needs all of
them: they are gathered before it, and of the input's gradient each process gets the sum for its own
rows, a reduce-scatter in place of an all-reduce.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from hace_kernels import loss_dtype

from ..arguments import Target

if TYPE_CHECKING:
    from .exchange import GroupExchange

__all__ = ["SpreadRows"]


class SpreadRows:
    """Which rows of a batch this process has. Making one is a collective call.

    Args:
        here: how many.
        device: of the batch.
        exchange: with the processes that have the others.
    """

    def __init__(self, here: int, device: torch.device, exchange: GroupExchange) -> None:
        self.exchange = exchange
        sizes = exchange.gather(torch.tensor([here], device=device))
        self.sizes = [int(size) for size in torch.cat(sizes).tolist()]
        first = sum(self.sizes[: dist.get_rank(exchange.group)])
        self.rows = slice(first, first + here)

    def whole(self, x: Tensor) -> Tensor:
        """The rows of all processes; a collective call, as is its backward.

        The gradient is the sum over processes, times their number: DDP and FSDP divide by that.
        """
        if torch.is_grad_enabled() and x.is_floating_point() and not x.requires_grad:
            x = x.detach().requires_grad_()  # other processes may need what this one has for them
        found: Tensor = _Whole.apply(x, self)  # type: ignore[no-untyped-call]
        return found

    def whole_target(self, target: Target) -> Target:
        """The targets of all rows, indices or pairs; they have no gradient.

        Raises:
            ValueError: probabilities.
        """
        if isinstance(target, tuple):
            return self.whole_data(target[0]), self.whole_data(target[1].detach())
        if target.is_floating_point():
            raise ValueError(
                'probabilities do not go with rows="sharded", since every process would need those '
                "of all rows: give indices, or pairs of a few weighted ones"
            )
        return self.whole_data(target)

    def own(self, x: Tensor) -> Tensor:
        """This process's rows of something for all; its backward is a collective call."""
        found: Tensor = _Own.apply(x, self)  # type: ignore[no-untyped-call]
        return found

    def whole_data(self, x: Tensor) -> Tensor:
        """The rows of all processes, without a gradient."""
        missing = max(self.sizes) - len(x)
        padded = pad(x, (0, 0) * (x.dim() - 1) + (0, missing))
        parts = self.exchange.gather(padded.contiguous())
        return torch.cat([part[:size] for part, size in zip(parts, self.sizes, strict=True)])


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: SpreadRows) -> Tensor:
        ctx.rows, ctx.dtype = rows, x.dtype
        return rows.whole_data(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows = ctx.rows
        grad, longest = grad.to(loss_dtype(grad.dtype)), max(rows.sizes)
        parts = [
            pad(part, (0, 0, 0, longest - len(part))) for part in torch.split(grad, rows.sizes)
        ]
        own = rows.exchange.reduce_scatter(parts)[: rows.rows.stop - rows.rows.start]
        return own.mul_(len(rows.sizes)).to(ctx.dtype), None


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: SpreadRows) -> Tensor:
        ctx.rows = rows
        return x[rows.rows].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.rows.whole_data(grad), None
