"""The autograd of a native op that makes a loss and, in the same pass, its gradient.

Such an op is two: `name(logits, …, reduction, eps, with_grad) -> (loss, grad_logits)`, where
`grad_logits` is for an incoming gradient of 1, and `name_backward(grad_loss, logits, …, reduction,
eps) -> grad_logits`, which makes it anew from the logits for any incoming one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from .. import native
from ..reference import loss_dtype
from ..schemas import PathLogLossArguments, TreeLogLossArguments
from .checks import REDUCTIONS, no_grad_of, translated

__all__ = ["FusedLoss"]

LossArguments: TypeAlias = PathLogLossArguments | TreeLogLossArguments


class FusedLoss:
    """The op `name` as a differentiable function of its arguments.

    Args:
        name: of the op, with its library's prefix.
        arguments: the op's.
        reference: the same loss in PyTorch; it gives the derivatives of the gradient.
        scale: multiplies a gradient by a number in place, and costs little where it is 1.
    """

    def __init__(
        self,
        name: str,
        arguments: type[LossArguments],
        reference: Callable[[Any], Tensor],
        scale: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.forward = getattr(torch.ops.hace_kernels, name).default
        self.backward = getattr(torch.ops.hace_kernels, f"{name}_backward").default
        self.arguments = arguments
        self.reference = reference
        self.scale = _scale if scale is None else scale
        torch.library.register_fake(f"hace_kernels::{name}", _fake_forward)
        torch.library.register_fake(f"hace_kernels::{name}_backward", _fake_backward)
        torch.library.register_autograd(
            f"hace_kernels::{name}", self._graph_backward, setup_context=self._graph_setup
        )

    def __call__(self, call: LossArguments, with_grad: bool) -> Tensor:
        """The loss."""
        args = (*call, with_grad)
        if torch.compiler.is_compiling():
            return cast(Tensor, self.forward(*args)[0])
        try:
            if args[0].requires_grad and torch.is_grad_enabled():
                return cast(Tensor, _Eager.apply(self, *args))  # type: ignore[no-untyped-call]
            return cast(Tensor, self.forward(*args)[0])
        except RuntimeError as error:
            raise translated(error) from None

    def differentiable_grad(self, grad_loss: Tensor, *args: Any) -> Tensor:
        """The gradient as autograd derives it from the reference, so that it has a derivative."""
        loss = self.reference(self.arguments(*args[:-1]))
        grad: Tensor
        (grad,) = torch.autograd.grad(loss, args[0], grad_loss, create_graph=True)
        return grad

    # ---- of the op as graphs hold it: nothing may depend on the incoming gradient's value ----

    def _graph_setup(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _save(ctx, inputs, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    def _graph_backward(
        self, ctx: Any, grad_loss: Tensor | None, grad_of_grad: Tensor | None
    ) -> tuple[Any, ...]:
        args, grad_logits = _saved(ctx)
        if grad_loss is None:
            grad = None
        elif torch.is_grad_enabled():  # create_graph=True: to be differentiated again
            grad = self.differentiable_grad(grad_loss, *args)
        elif grad_logits is not None and args[-1]:
            rows = grad_loss[:, None] if grad_loss.dim() else grad_loss
            grad = (grad_logits * rows).to(grad_logits.dtype)
        else:
            grad = self.backward(grad_loss, *args[:-1])
        return (grad, *map(no_grad_of, args[1:]))


class _Eager(torch.autograd.Function):
    """The same for eager calls: half the overhead, and no pass over a gradient of 1."""

    @staticmethod
    def forward(ctx: Any, fused: FusedLoss, *args: Any) -> Tensor:
        loss, grad_logits = fused.forward(*args)
        _save(ctx, args)
        ctx.fused = fused
        ctx.grad_logits = grad_logits if args[-1] else None
        return cast(Tensor, loss)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        # The first backward gives the gradient away, for the caller may add to it in place; a
        # second one makes it anew.
        grad, ctx.grad_logits = ctx.grad_logits, None
        args, _ = _saved(ctx)
        if torch.is_grad_enabled():  # create_graph=True: to be differentiated again
            grad = ctx.fused.differentiable_grad(grad_loss, *args)
        elif grad is None:
            grad = ctx.fused.backward(grad_loss, *args[:-1])
        else:
            grad = ctx.fused.scale(grad, grad_loss)
        return (None, grad, *[None] * (len(args) - 1))


def _scale(grad: Tensor, factor: Tensor) -> Tensor:
    if native.cuda_device_type == grad.device.type:  # the factor stays on the device
        torch.ops.hace_kernels.scale_in_place(grad, factor)
    elif factor.item() != 1.0:
        grad *= factor
    return grad


def _save(ctx: Any, args: tuple[Any, ...], *outputs: Tensor) -> None:
    """Saves tensors and lists of them where autograd wants its tensors, the rest beside them."""
    tensors: list[Tensor] = []

    def place(arg: Any) -> Any:
        """What stands for an argument: of a tensor, where it is; the rest as it is."""
        if isinstance(arg, Tensor):
            tensors.append(arg)
            return _At(len(tensors) - 1)
        return [*map(place, arg)] if isinstance(arg, list) else arg

    ctx.args = [*map(place, args)]
    ctx.save_for_backward(*tensors, *outputs)


def _saved(ctx: Any) -> tuple[list[Any], Tensor | None]:
    """The arguments that `_save` saved, and the output, if there is one."""
    tensors = ctx.saved_tensors
    used = 0

    def arg_at(place: Any) -> Any:
        nonlocal used
        if isinstance(place, _At):
            used = place.place + 1
            return tensors[place.place]
        return [*map(arg_at, place)] if isinstance(place, list) else place

    args = [*map(arg_at, ctx.args)]
    return args, tensors[used] if len(tensors) > used else None


class _At(NamedTuple):
    """Where a saved tensor is."""

    place: int


def _fake_forward(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    reduction, with_grad = args[-3], args[-1]
    shape = logits.shape[:1] if REDUCTIONS[reduction] == "none" else ()
    loss = logits.new_empty(shape, dtype=loss_dtype(logits.dtype))
    return loss, logits.new_empty(logits.shape if with_grad else (0,))


def _fake_backward(grad_loss: Tensor, logits: Tensor, *args: Any) -> Tensor:
    return logits.new_empty(logits.shape)
