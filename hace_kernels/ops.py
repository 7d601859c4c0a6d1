"""The ops that users of plain tensors call: checks, choice of backend, autograd, fake kernels."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from . import native, reference
from .backends import resolve
from .path_table import PathTable

__all__ = ["path_log_loss"]

REDUCTIONS = ("none", "mean", "sum")


def path_log_loss(
    logits: Tensor,
    target: Tensor,
    table: PathTable,
    *,
    target_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    eps: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Log-loss over the nested intervals of each target's path, `L = -sum_i w_i log(P_i + eps)`.

    `P_i` is the softmax mass of the columns in interval i of the target's path and `w_i` that
    interval's weight in the table. Hierarchy-Aware Cross-Entropy (arXiv 2605.06274, section 3) and
    its relatives are tables.

    Args:
        logits: (B, C), float16, bfloat16, float32 or float64, any strides.
        target: (B,) int64, indices of the table's T targets, or `ignore_index`.
        table: the paths, on the logits' device.
        target_weight: (T,) floating; multiplies each row's loss.
        ignore_index: rows with this target count for nothing.
        reduction: "none", "sum", or "mean", which divides by the sum of the rows' target weights.
        eps: added to each probability inside the logarithm.
        backend: "auto", or one of `hace_kernels.backends()`.

    Returns:
        The loss, float64 for float64 logits and float32 otherwise: a scalar, or (B,) with "none".

    Raises:
        IndexError: a target is out of range or has no class at or below it. On the CPU in eager
            mode; compiled code raises RuntimeError, an accelerator gives NaN for the row.
        ValueError: shapes or options that do not fit.
        TypeError: logits that are not floating point.
        BackendError: the backend asked for cannot run here.
    """
    _check(logits, target, table, target_weight, reduction, eps)
    chosen = resolve(backend, logits.device, logits.dtype)
    if chosen == "reference":
        return reference.path_log_loss(
            logits,
            target,
            table,
            target_weight=target_weight,
            ignore_index=ignore_index,
            reduction=reduction,
            eps=eps,
        )
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    args = (
        logits,
        target.contiguous(),
        table.ptr,
        table.start,
        table.stop,
        table.weight,
        table.order,
        None if target_weight is None else target_weight.double().contiguous(),
        ignore_index,
        REDUCTIONS.index(reduction),
        eps,
        _gradient_in_forward(logits, reduction),
    )
    if torch.compiler.is_compiling():
        return cast(Tensor, _path_log_loss(*args)[0])
    try:
        if logits.requires_grad and torch.is_grad_enabled():
            return cast(Tensor, _PathLogLoss.apply(*args))  # type: ignore[no-untyped-call]
        return cast(Tensor, _path_log_loss(*args)[0])
    except RuntimeError as error:
        raise _translated(error) from None


def _check(
    logits: Tensor,
    target: Tensor,
    table: PathTable,
    target_weight: Tensor | None,
    reduction: str,
    eps: float,
) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.dim() != 2 or logits.shape[1] != table.num_classes:
        raise ValueError(
            f"logits must be (B, {table.num_classes}), one column a class of the path table; "
            f"got {tuple(logits.shape)}"
        )
    if target.shape != logits.shape[:1] or target.dtype != torch.int64:
        raise ValueError(
            f"target must be ({logits.shape[0]},) int64, one index a row of logits; got "
            f"{tuple(target.shape)} {target.dtype}"
        )
    if target_weight is not None and target_weight.shape != (table.num_targets,):
        raise ValueError(
            f"target_weight must be ({table.num_targets},), one weight a target of the path table; "
            f"got {tuple(target_weight.shape)}"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be 0 or a small positive number, got {eps!r}")


def _gradient_in_forward(logits: Tensor, reduction: str) -> bool:
    """Whether the gradient is best made while the row is in the cache for the loss.

    It is made for an incoming gradient of 1. Where rows have incoming gradients of their own, and
    in float16, where a loss scaler's factor must come in before rounding, the backward makes it.
    """
    return (
        logits.requires_grad
        and torch.is_grad_enabled()
        and reduction != "none"
        and logits.dtype != torch.float16
    )


def _translated(error: RuntimeError) -> Exception:
    """The native check's message as the exception that Python users expect."""
    message = str(error)
    for sign in (" is out of range: ", " has no class at or below it"):
        if sign in message:
            start = message.rindex("target ", 0, message.index(sign))
            return IndexError(message[start:].splitlines()[0])
    return error


if native.load_error is None:
    _path_log_loss = torch.ops.hace_kernels.path_log_loss.default
    _path_log_loss_backward = torch.ops.hace_kernels.path_log_loss_backward.default

    @torch.library.register_fake("hace_kernels::path_log_loss")  # type: ignore[untyped-decorator]
    def _fake_path_log_loss(logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        reduction, with_grad = args[-3], args[-1]
        shape = logits.shape[:1] if REDUCTIONS[reduction] == "none" else ()
        loss = logits.new_empty(shape, dtype=reference.loss_dtype(logits.dtype))
        return loss, logits.new_empty(logits.shape if with_grad else (0,))

    @torch.library.register_fake(  # type: ignore[untyped-decorator]
        "hace_kernels::path_log_loss_backward"
    )
    def _fake_path_log_loss_backward(grad_loss: Tensor, logits: Tensor, *args: Any) -> Tensor:
        return logits.new_empty(logits.shape)

    def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.ignore_index, ctx.reduction, ctx.eps, ctx.with_grad = inputs
        ctx.save_for_backward(*tensors, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    def _backward(
        ctx: Any, grad_loss: Tensor | None, grad_of_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Of the op as graphs hold it: nothing may depend on the incoming gradient's value."""
        *inputs, grad_logits = ctx.saved_tensors
        if grad_loss is None:
            grad = None
        elif torch.is_grad_enabled():  # create_graph=True: to be differentiated again
            grad = _differentiable_grad_logits(ctx, grad_loss, *inputs)
        elif ctx.with_grad:
            rows = grad_loss[:, None] if grad_loss.dim() else grad_loss
            grad = (grad_logits * rows).to(grad_logits.dtype)
        else:
            grad = _grad_logits(ctx, grad_loss, *inputs)
        return (grad, *_NO_GRADS)

    torch.library.register_autograd(
        "hace_kernels::path_log_loss", _backward, setup_context=_save_for_backward
    )


_NO_GRADS = (None,) * 11  # of the inputs after the logits


class _PathLogLoss(torch.autograd.Function):
    """The same autograd for eager calls: half the overhead, and no pass over a gradient of 1."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        loss, grad_logits = _path_log_loss(*inputs)
        *tensors, ctx.ignore_index, ctx.reduction, ctx.eps, with_grad = inputs
        ctx.save_for_backward(*tensors)
        ctx.grad_logits = grad_logits if with_grad else None
        return cast(Tensor, loss)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        # The first backward gives the gradient away, for the caller may add to it in place; a
        # second one makes it anew.
        grad_logits, ctx.grad_logits = ctx.grad_logits, None
        if torch.is_grad_enabled():  # create_graph=True: to be differentiated again
            return (_differentiable_grad_logits(ctx, grad_loss, *ctx.saved_tensors), *_NO_GRADS)
        if grad_logits is None:
            return (_grad_logits(ctx, grad_loss, *ctx.saved_tensors), *_NO_GRADS)
        if not grad_loss.is_cpu or grad_loss.item() != 1.0:
            grad_logits *= grad_loss
        return (grad_logits, *_NO_GRADS)


def _grad_logits(ctx: Any, grad_loss: Tensor, *inputs: Tensor | None) -> Tensor:
    grad: Tensor = _path_log_loss_backward(
        grad_loss, *inputs, ctx.ignore_index, ctx.reduction, ctx.eps
    )
    return grad


def _differentiable_grad_logits(
    ctx: Any,
    grad_loss: Tensor,
    logits: Tensor,
    target: Tensor,
    ptr: Tensor,
    start: Tensor,
    stop: Tensor,
    weight: Tensor,
    order: Tensor | None,
    target_weight: Tensor | None,
) -> Tensor:
    """The gradient as autograd derives it from the reference, so that it has a derivative."""
    table = PathTable(
        ptr, start, stop, weight, order, logits.shape[1], int(ptr.diff().max()) if len(ptr) else 0
    )
    loss = reference.path_log_loss(
        logits,
        target,
        table,
        target_weight=target_weight,
        ignore_index=ctx.ignore_index,
        reduction=REDUCTIONS[ctx.reduction],
        eps=ctx.eps,
    )
    (grad,) = torch.autograd.grad(loss, logits, grad_loss, create_graph=True)
    return grad
