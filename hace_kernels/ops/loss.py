"""Ops that compute a loss and, in the same pass, its gradient.

Each is a pair of torch ops. `name(arguments…, with_grad) -> (loss, grad_logits)` gives the gradient
for an incoming one of 1; `name_backward(grad_loss, arguments…) -> grad_logits` computes it from the
logits again, for any incoming one. `derivatives.py` says how eager calls use the two. In the
compiled library, `name_bound` is the first of them with arguments that `name_bind` has converted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import native
from ..exporting import add_decomposition
from ..rows import REDUCTIONS, loss_dtype, num_rows
from ..transforms import in_transform
from .checks import no_grad_of
from .derivatives import Constant, Eager, RowOp, Rows, all_as_rows, below_autograd, fast_apply
from .graph_autograd import register_reverse_mode

__all__ = ["LossOp"]

_NONE, _MEAN = REDUCTIONS.index("none"), REDUCTIONS.index("mean")


class LossOp(RowOp):
    """The op `name` as a differentiable function of its arguments.

    Args:
        name: the op's name, with the prefix of its implementation.
        arguments: the named tuple of its arguments.
        num_rows: how many of the arguments have one entry per row of logits; they come first.
        reference: the same loss in plain PyTorch; it gives the derivatives of the gradient.
        total_weight: gives what `mean` divides by in each of V batches, (V), from arguments whose
            rows are (V, B, …).
        scale: multiplies a gradient in place by a number; this costs little where the number is 1.
        takes_pixels: whether the kernel takes logits (N, C, S) on the CPU.
        is_native: whether it is an op of the compiled library, which can bind arguments.
    """

    def __init__(
        self,
        name: str,
        arguments: Any,
        num_rows: int,
        reference: Callable[[Any], Tensor],
        total_weight: Callable[[Any], Tensor],
        scale: Callable[[Tensor, Tensor], Tensor] | None = None,
        takes_pixels: bool = False,
        is_native: bool = False,
    ) -> None:
        self._name, self._is_native = name, is_native
        self.kernel = getattr(torch.ops.hace_kernels, name).default
        self.backward_kernel = getattr(torch.ops.hace_kernels, f"{name}_backward").default
        self.arguments, self.num_rows = arguments, num_rows
        self.of_reference, self.total_weight = reference, total_weight
        self._scale = _scaled if scale is None else scale
        self._takes_pixels = takes_pixels
        self._reduction = arguments._fields.index("reduction") - num_rows
        torch.library.register_fake(f"hace_kernels::{name}", _fake)
        torch.library.register_fake(f"hace_kernels::{name}_backward", _fake_backward)
        add_decomposition(name, self._plain_with_gradient)
        add_decomposition(f"{name}_backward", self.plain_gradient)
        register_reverse_mode(name, self._backward_in_graph, _setup_in_graph)
        register_reverse_mode(f"{name}_backward")

    def __call__(self, arguments: tuple[Any, ...]) -> Tensor:
        """The loss of rows or pixels; pixels become rows for kernels that do not take pixels."""
        x = arguments[0]
        if x.dim() == 3 and not (
            self._takes_pixels
            and x.device.type == "cpu" != native.cuda_device_type
            and (torch.compiler.is_compiling() or not in_transform())
        ):
            rows, rest = arguments[: self.num_rows], arguments[self.num_rows :]
            arguments = self.arguments(*all_as_rows(rows), *rest)
        return super().__call__(arguments)

    def bound(self, rest: tuple[Any, ...]) -> Callable[..., Tensor]:
        """The loss with ordinary gradients, as a function of rows that no transform made."""
        if not self._is_native:
            return super().bound(rest)
        ops = torch.ops.hace_kernels
        bound = _Bound(
            getattr(ops, f"{self._name}_bound").default,
            getattr(ops, f"{self._name}_bind").default(*rest),
            rest[self._reduction] != _NONE,
            rest,
        )
        return partial(fast_apply(_EagerBound), self, bound)

    def in_graph(self, arguments: tuple[Any, ...]) -> Tensor:
        """The loss, by the torch op that a compiled graph holds."""
        with_grad = self._makes_gradient(arguments[0], arguments[self.num_rows + self._reduction])
        return cast(Tensor, self.kernel(*arguments, with_grad)[0])

    def value(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        """The loss."""
        with below_autograd():
            return cast(Tensor, self.kernel(*rows, *rest, False)[0])

    def value_and_gradient(self, rows: Rows, rest: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
        """The loss, and its gradient where it pays to compute both at once."""
        with_grad = rest[self._reduction] != _NONE and rows[0].dtype != torch.float16
        with below_autograd():
            loss, gradient = self.kernel(*rows, *rest, with_grad)
        return loss, gradient if with_grad else None

    def gradient(self, grad: Tensor, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        """The gradient of the logits."""
        with below_autograd():
            return cast(Tensor, self.backward_kernel(grad, *rows, *rest))

    def scaled(self, gradient: Tensor, grad: Tensor) -> Tensor:
        """The gradient times the incoming one, in place."""
        return self._scale(gradient, grad)

    def reference(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        """The loss in plain PyTorch."""
        return self.of_reference(self.arguments(*rows, *rest))

    def directional(self, rows: Rows, rest: Constant, tangent: Tensor) -> Tensor:
        """The gradient's products with the tangent, in the loss's dtype."""
        logits = rows[0]
        by_row = rest.value[self._reduction] == _NONE
        dtype = loss_dtype(logits.dtype)
        one = logits.new_ones(len(logits) if by_row else (), dtype=dtype)
        products = self.differentiable_gradient(one, rows, rest).to(dtype) * tangent.to(dtype)
        return products.sum(1) if by_row else products.sum()

    def value_of_batch(self, rows: Rows, rest: Constant) -> Tensor:
        """The losses of rows (V, B, …), each batch reduced by itself."""
        loss = super().value_of_batch(rows, self._by_row(rest))
        reduction = rest.value[self._reduction]
        if reduction == _NONE:
            return loss
        total = loss.sum(1)
        if reduction == _MEAN:
            total = total / self.total_weight(self.arguments(*rows, *rest.value)).to(total.dtype)
        return total

    def gradient_of_batch(self, grad: Tensor, rows: Rows, rest: Constant) -> Tensor:
        """The gradients, given those of each batch's loss, (V) or (V, B)."""
        reduction = rest.value[self._reduction]
        if reduction == _MEAN:
            grad = grad / self.total_weight(self.arguments(*rows, *rest.value)).to(grad.dtype)
        if reduction != _NONE:
            grad = grad[:, None].expand(rows[0].shape[:2])
        return super().gradient_of_batch(grad, rows, self._by_row(rest))

    def _by_row(self, rest: Constant) -> Constant:
        """The same arguments without a reduction."""
        at = self._reduction
        return Constant((*rest.value[:at], _NONE, *rest.value[at + 1 :]))

    def _makes_gradient(self, logits: Tensor, reduction: int) -> bool:
        """Whether to compute the gradient with the loss, while the row is in the cache.

        Such a gradient is for an incoming one of 1. It is left to the backward where every row has
        an incoming gradient of its own, and in float16, where the factor of a loss scaler has to
        come in before the gradient is rounded.
        """
        return (
            reduction != _NONE
            and logits.dtype != torch.float16
            and logits.requires_grad
            and torch.is_grad_enabled()
        )

    def _plain_with_gradient(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """The torch op in plain PyTorch: the loss, and its gradient where it is asked for."""
        arguments, with_grad = arguments[:-1], arguments[-1]
        loss = self.plain(*arguments)
        if not with_grad:
            return loss, loss.new_empty(0, dtype=arguments[0].dtype)
        return loss, self.plain_gradient(torch.ones_like(loss), *arguments)

    # ---- the torch op in graphs, where nothing may depend on the incoming gradient's value ----

    def _backward_in_graph(
        self, ctx: Any, grad_loss: Tensor | None, grad_of_grad: Tensor | None
    ) -> tuple[Any, ...]:
        args, made = _saved(ctx)
        *arguments, with_grad = args
        if grad_loss is None:
            gradient = None
        elif torch.is_grad_enabled():  # create_graph=True: to be differentiated again
            rows, rest = tuple(arguments[: self.num_rows]), tuple(arguments[self.num_rows :])
            gradient = self.differentiable_gradient(grad_loss, rows, Constant(rest))
        elif with_grad:
            by_row = grad_loss[:, None] if grad_loss.dim() else grad_loss
            gradient = (made * by_row).to(made.dtype)
        else:
            gradient = self.backward_kernel(grad_loss, *arguments)
        return (gradient, *map(no_grad_of, args[1:]))


class _Bound(NamedTuple):
    """The op `kernel` with its `arguments` after those of the rows, and these unconverted, `rest`.

    `is_reduced`: whether the loss of the rows is one number.
    """

    kernel: Any
    arguments: Tensor
    is_reduced: bool
    rest: tuple[Any, ...]


class _EagerBound(Eager):
    """`Eager` with bound arguments."""

    @staticmethod
    def forward(ctx: Any, op: LossOp, bound: _Bound, *rows: Tensor | None) -> Tensor:  # type: ignore[override]
        with_grad = bound.is_reduced and rows[0].dtype != torch.float16  # type: ignore[union-attr]
        value: Tensor
        value, made = bound.kernel(*rows, bound.arguments, with_grad)
        ctx.made = made if with_grad else None
        ctx.op, ctx.rest = op, bound.rest
        ctx.save_for_backward(*rows)
        return value


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    if native.emulated or not gradient.is_cpu:  # the factor stays on the device
        torch.ops.hace_kernels.scale_in_place(gradient, factor)
    elif factor.item() != 1.0:
        gradient *= factor
    return gradient


def _setup_in_graph(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Saves tensors, also those in lists, for autograd, and all other arguments beside them."""
    tensors: list[Tensor] = []

    def place(arg: Any) -> Any:
        """A tensor's place among the saved ones; any other argument as it is."""
        if isinstance(arg, Tensor):
            tensors.append(arg)
            return _At(len(tensors) - 1)
        return [*map(place, arg)] if isinstance(arg, list) else arg

    ctx.args = [*map(place, inputs)]
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _saved(ctx: Any) -> tuple[list[Any], Tensor]:
    """The op's arguments, and the gradient that it computed."""
    *tensors, made = ctx.saved_tensors

    def arg_at(place: Any) -> Any:
        if isinstance(place, _At):
            return tensors[place.place]
        return [*map(arg_at, place)] if isinstance(place, list) else place

    return [*map(arg_at, ctx.args)], made


class _At(NamedTuple):
    """The place of a saved tensor."""

    place: int


def _fake(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    reduction, with_grad = args[-3], args[-1]
    shape = (num_rows(logits),) if reduction == _NONE else ()
    loss = logits.new_empty(shape, dtype=loss_dtype(logits.dtype))
    return loss, logits.new_empty(logits.shape if with_grad else (0,))


def _fake_backward(grad_loss: Tensor, logits: Tensor, *args: Any) -> Tensor:
    return logits.new_empty(logits.shape)
