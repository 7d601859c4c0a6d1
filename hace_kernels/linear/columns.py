"""The loss of a linear layer by tiles of classes, without holding all its logits.

In the forward, each tile's logits are computed, measured and forgotten. In the backward, they are
computed again, replaced by their gradient in place, and multiplied into the gradients of the input
and of the tile's weights. That takes four matrix products, where whole logits take three, and
memory for B · T numbers. Each weight's gradient is the product of one tile, rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..autocast import without_autocast
from ..ops.path_stages import path_measure, path_resolve, path_write
from ..reference.path_stages import RingGradient
from ..row_paths import Rings, RowPaths, empty_rings
from ..rows import loss_dtype
from .node_sums import NodeSums
from .node_sweep import NodeSweep
from .shard import Exchange, LocalClasses
from .tiles import SWEEP_BYTES, Layer, OnWeightGrad, tile_width
from .tree_layer import Above, TreeLayer, layer_of

__all__ = [
    "Head",
    "linear_row_losses",
    "logit_row_losses",
    "refuse_second_derivative",
    "tile_gradients",
    "written",
]


@dataclass(frozen=True)
class Head:
    """What the loss of a linear layer needs beside the layer.

    Attributes:
        paths: the rows' paths, in positions of all classes.
        classes: the classes that this process holds.
        local: the rows' paths, in the positions of these classes.
        is_right: bool (B), False where a target is bad.
        eps, entropy: as in `path_log_loss`.
        dtype: that of the logits.
        backend: that of the stages.
        exchange: with the processes that hold the other classes; None if this one holds all.
        repeats: how many paths a row has. All rows' first paths come first, then their second ones.
        on_weight_grad: if given, takes the gradient of the layer's weight, tile by tile.
        sweep: makes the sweep over all nodes, from the number of rows and the width of tiles; None
            if targets are paths alone.
        sums: if given, the layer's weight and bias are node vectors, and this adds them up.
    """

    paths: RowPaths
    classes: LocalClasses
    local: RowPaths
    is_right: Tensor
    eps: float
    entropy: float
    dtype: torch.dtype
    backend: str
    exchange: Exchange | None
    repeats: int = 1
    on_weight_grad: OnWeightGrad | None = None
    sweep: Callable[[int, int], NodeSweep] | None = None
    sums: NodeSums | None = None

    def sweep_of(self, rows: int, width: int) -> NodeSweep | None:
        """The sweep over all nodes, for so many rows and tiles of this width."""
        return None if self.sweep is None else self.sweep(rows, width)

    def rings(self) -> Rings:
        """The rings' sums before anything is added to them."""
        dtype = loss_dtype(self.dtype)
        return empty_rings(self.local, dtype, with_moment=self.entropy != 0)

    def measure(self, z: Tensor, first: int, rings: Rings) -> None:
        """Merges a tile (B, T) into the rings of all paths."""
        for rows in self._repeated(z):
            path_measure(z, self.local.part(rows), first, rings.part(rows), self.backend)

    def write(
        self,
        z: Tensor,
        first: int,
        gradient: RingGradient | None,
        sweep: NodeSweep | None = None,
        grad_nodes: Tensor | None = None,
    ) -> None:
        """Replaces a tile by its gradient: the sum over a row's paths, and that over all nodes.

        Without a gradient of the paths it is that over all nodes alone.
        """
        if sweep is not None and grad_nodes is not None:
            work, of_nodes = sweep.gradient(z, first, grad_nodes)
            if gradient is None:
                z.copy_(of_nodes)
                return
            self.write(work, first, gradient)
            work += of_nodes  # so that their sum is rounded only once
            if work.data_ptr() != z.data_ptr():
                z.copy_(work)
            return
        assert gradient is not None
        total = None
        for rows in self._repeated(z):
            part = gradient.part(rows)
            grad = z if self.repeats == 1 else torch.empty_like(z)
            path_write(z, self.local.part(rows), first, part, grad, self.backend)
            total = grad if total is None else total.add_(grad)
        if self.repeats != 1:
            z.zero_() if total is None else z.copy_(total)

    def _repeated(self, z: Tensor) -> list[slice]:
        return [slice(k * len(z), (k + 1) * len(z)) for k in range(self.repeats)]


RowLosses: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
"""Each path's loss, unweighted, log P of its innermost interval, and each row's loss over all nodes
(`NodeSweep`); None where targets are paths alone. All float64."""


def linear_row_losses(input: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> RowLosses:
    """The losses of a linear layer's logits.

    Args:
        input: (B, F).
        weight: (C, F).
        bias: (C), or None.
        head: the rest.
    """
    losses: RowLosses = _Columns.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, head
    )
    return losses


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, head: Head
    ) -> RowLosses:
        layer, x = _layer(input, weight, bias, head), input.to(head.dtype)
        rings, sweep = head.rings(), head.sweep_of(len(x), layer.width)
        buffer = layer.buffer(x)
        with without_autocast(x.device):
            for first, last in layer.spans():
                part, memory = layer.part(weight, first, last), _memory(buffer, sweep, first)
                z = layer.logits(x, part, first, last, memory)
                head.measure(z, first, rings)
                if sweep is not None:
                    sweep.measure(z, first)
        of_nodes = _resolve_nodes(rings, head, sweep)
        ctx.save_for_backward(input, weight, bias, *rings)
        ctx.head, ctx.sweep = head, sweep
        ctx.above = layer.above if isinstance(layer, TreeLayer) else None
        ctx.set_materialize_grads(False)
        return *_path_losses(rings, head), of_nodes

    @staticmethod
    def backward(
        ctx: Any,
        grad_loss: Tensor | None,
        grad_log_prob: Tensor | None,
        grad_nodes: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        input, weight, bias, *rings = ctx.saved_tensors
        refuse_second_derivative()
        gradient = tile_gradients(Rings(*rings), ctx.head, grad_loss, grad_log_prob, grad_nodes)
        if gradient is None:
            return None, None, None, None
        of_paths = _unless_nothing(gradient, grad_nodes)

        def write(z: Tensor, first: int) -> None:
            ctx.head.write(z, first, of_paths, ctx.sweep, grad_nodes)

        needed = ctx.needs_input_grad[:3]
        grads = written(input, weight, bias, ctx.head, write, needed, ctx.sweep, ctx.above)
        return (*grads, None)


def logit_row_losses(logits: Tensor, head: Head) -> RowLosses:
    """The losses of logits (B, C') of the classes that this process holds."""
    losses: RowLosses = _Logits.apply(logits, head)  # type: ignore[no-untyped-call]
    return losses


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, head: Head) -> RowLosses:
        rings, width = head.rings(), _logit_tile_width(logits, head)
        sweep = head.sweep_of(len(logits), width)
        with without_autocast(logits.device):
            for first, columns in _logit_tiles(logits, head):
                z = logits if columns is None else logits.index_select(1, columns)
                head.measure(z, first, rings)
                if sweep is not None:
                    sweep.measure(z, first)
            of_nodes = _resolve_nodes(rings, head, sweep)
        ctx.save_for_backward(logits, *rings)
        ctx.head, ctx.sweep = head, sweep
        ctx.set_materialize_grads(False)
        return *_path_losses(rings, head), of_nodes

    @staticmethod
    def backward(
        ctx: Any,
        grad_loss: Tensor | None,
        grad_log_prob: Tensor | None,
        grad_nodes: Tensor | None,
    ) -> tuple[Tensor | None, None]:
        logits, *rings = ctx.saved_tensors
        refuse_second_derivative()
        gradient = tile_gradients(Rings(*rings), ctx.head, grad_loss, grad_log_prob, grad_nodes)
        if gradient is None:
            return None, None
        of_paths = _unless_nothing(gradient, grad_nodes)
        grad = logits.clone()
        with without_autocast(logits.device):
            for first, columns in _logit_tiles(logits, ctx.head):
                g = grad if columns is None else grad.index_select(1, columns)
                ctx.head.write(g, first, of_paths, ctx.sweep, grad_nodes)
                if columns is not None:
                    grad.index_copy_(1, columns, g)
        return grad, None


def _logit_tile_width(logits: Tensor, head: Head) -> int:
    """The columns per tile; if they are in the order of positions, all columns are one tile."""
    if head.classes.order is None:
        return max(1, logits.shape[1])
    return _tile_width(len(logits), 1, head)


def _logit_tiles(logits: Tensor, head: Head) -> Iterator[tuple[int, Tensor | None]]:
    """The first position of each tile, and its columns; None: all columns, in their order."""
    order, width = head.classes.order, _logit_tile_width(logits, head)
    for first in range(0, logits.shape[1], width):
        yield first, None if order is None else order[first : first + width].long()


def refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the loss of a linear layer by tiles, and of classes over several processes, has no "
            "second derivative: for create_graph, raise logit_bytes so that the logits are whole, "
            "or apply the loss to F.linear(input, weight, bias) in one process"
        )


def _layer(
    input: Tensor, weight: Tensor, bias: Tensor | None, head: Head, above: Above | None = None
) -> Layer:
    width = _tile_width(len(input), weight.shape[1], head)
    return layer_of(weight, bias, head.classes.order, head.dtype, width, head.sums, above)


def _tile_width(rows: int, features: int, head: Head) -> int:
    if head.sweep is None:
        return tile_width(rows, features, head.dtype.itemsize)
    return tile_width(rows, features, loss_dtype(head.dtype).itemsize, SWEEP_BYTES)


def _memory(buffer: Tensor, sweep: NodeSweep | None, first: int) -> Tensor:
    """Memory for the logits of a tile: that in which the sweep works, if it is of their type."""
    if sweep is None or sweep.dtype != buffer.dtype:
        return buffer
    return sweep.memory(first)


def _resolve_nodes(rings: Rings, head: Head, sweep: NodeSweep | None) -> Tensor | None:
    """Completes the rings with all processes' classes; returns the rows' losses over all nodes."""
    if sweep is not None:
        sweep.add_own()
    _exchange(rings, head, sweep)
    return None if sweep is None else sweep.resolve(rings)


def _path_losses(rings: Rings, head: Head) -> tuple[Tensor, Tensor]:
    resolved = path_resolve(rings, head.paths, eps=head.eps, entropy=head.entropy)
    loss = resolved.loss
    if head.sweep is not None:
        # Smoothing may take more from a target than it leaves there, but not more than it gives.
        loss = torch.where(loss == -torch.inf, torch.inf, loss)
    return loss, resolved.log_prob


def _exchange(rings: Rings, head: Head, sweep: NodeSweep | None) -> None:
    """Turns the rings into those of all processes' classes; all raise if one has a bad target."""
    if head.exchange is None:
        return
    # Rows are numbered from 1; a bad target in any of a row's paths makes the row bad.
    num_rows = len(head.is_right) // head.repeats if head.repeats else 0
    row = torch.arange(1, num_rows + 1, device=head.is_right.device).repeat(head.repeats)
    bad_rows = torch.where(head.is_right, 0, row).float()
    together = rings if sweep is None else sweep.beside(rings)
    bad_row = head.exchange.rings(together, torch.cat([bad_rows, bad_rows.new_zeros(1)]).max())
    if sweep is not None:
        sweep.take(together, rings)
    if bad_row.device.type == "cpu" and bad_row > 0:
        raise IndexError(
            f"the target of row {int(bad_row) - 1} is out of range, or has no class at or below "
            "it, in at least one of the processes that share the classes"
        )
    rings.sum.masked_fill_((row == bad_row)[:, None], torch.nan)


def tile_gradients(
    rings: Rings,
    head: Head,
    grad_loss: Tensor | None,
    grad_log_prob: Tensor | None,
    grad_nodes: Tensor | None,
) -> RingGradient | None:
    """The gradients of the rows' losses and log-probabilities, each times its incoming gradient.

    None if there is no incoming gradient at all, neither for paths nor for all nodes.
    """
    if grad_loss is None and grad_nodes is not None:
        grad_loss = torch.zeros_like(rings.sum[:, 0])
    if grad_log_prob is None:
        if grad_loss is None:
            return None
        resolved = path_resolve(rings, head.paths, eps=head.eps, entropy=head.entropy)
        return resolved.gradient.times(grad_loss)
    # -log P of the innermost interval is one more loss over the same rings.
    weight = torch.zeros_like(head.paths.weight)
    weight[:, :1] = 1
    of_prob = path_resolve(rings, head.paths._replace(weight=weight)).gradient.times(-grad_log_prob)
    if grad_loss is None:
        return of_prob
    resolved = path_resolve(rings, head.paths, eps=head.eps, entropy=head.entropy)
    of_loss = resolved.gradient.times(grad_loss)
    return of_loss._replace(
        factor=of_loss.factor + of_prob.factor, offset=of_loss.offset + of_prob.offset
    )


def _forget(rows: Tensor | slice, grad: Tensor) -> None:
    """Takes a gradient that only other processes need."""


def _unless_nothing(gradient: RingGradient, grad_nodes: Tensor | None) -> RingGradient | None:
    """A gradient; None where it is 0, as that of paths whose mass is all in the sweep."""
    return None if grad_nodes is not None and gradient.is_nothing() else gradient


def written(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    head: Head,
    write: Callable[[Tensor, int], None],
    needed: tuple[bool, bool, bool],
    sweep: NodeSweep | None = None,
    above: Above | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients that are needed of input, weight and bias, by tiles that `write` turns into
    the gradients of their logits in place."""
    update = head.on_weight_grad if needed[1] else None
    if update is not None and weight.is_leaf and weight.grad is not None:
        raise RuntimeError(
            "the weight has a gradient already, and an update by tiles cannot add to it: set "
            "weight.grad to None before the backward, or accumulate without on_weight_grad"
        )
    if update is not None and hasattr(update, "begin"):
        update.begin()
    layer, x = _layer(input, weight, bias, head, above), input.to(head.dtype)
    # The input's gradient is a sum over tiles, so it is kept in the working type. Other processes
    # may need it, and the gradients of shared nodes, even if this one does not.
    wants_input = needed[0] or head.exchange is not None
    is_shared = head.sums is not None and head.sums.shared is not None
    grad_input = torch.zeros_like(x, dtype=loss_dtype(x.dtype)) if wants_input else None
    grad_weight, grad_bias = None, None
    if needed[1] or is_shared:
        grad_weight = layer.gradient(weight, update if needed[1] else _forget)
    if bias is not None and (needed[2] or is_shared):
        grad_bias = layer.gradient(bias, None if needed[2] else _forget)
    buffer = layer.buffer(x)
    with without_autocast(x.device):
        for first, last in layer.spans():
            part = layer.part(weight, first, last)
            g = layer.logits(x, part, first, last, _memory(buffer, sweep, first))
            write(g, first)
            if grad_input is not None:
                if grad_input.dtype == g.dtype:
                    grad_input.addmm_(g, part)
                else:
                    grad_input += torch.mm(g, part)
            if grad_weight is not None:
                grad_weight.put_product(first, last, g.T, x)
            if grad_bias is not None:
                grad_bias.put(first, last, g.sum(0, dtype=loss_dtype(g.dtype)))
    if grad_input is not None:
        if head.exchange is not None:
            head.exchange.grad_input(grad_input)
        grad_input = grad_input.to(input.dtype)
    of_weight = None if grad_weight is None else grad_weight.finish()
    return grad_input, of_weight, None if grad_bias is None else grad_bias.finish()
