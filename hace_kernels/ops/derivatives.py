"""The derivatives of the ops, in every way in which PyTorch asks for them.

One kernel computes an op's value f(x), another its gradient `J(x)ᵀ g`. All else follows from these:

- In eager mode, the gradient is one call of the second kernel, or was computed with the value.
- Forward mode, and the gradient of the gradient in g, are `J(x) t`. For a loss that is the sum of
  the products of gradient and t, row by row; for other ops the reference computes it.
- The gradient of `gᵀ J(x)` in x, and its directional derivatives, are products with the Hessian of
  `gᵀ f(x)`. The reference computes these and all higher derivatives.
- A batch of batches is one longer batch: `vmap` folds its dimension into that of the rows.
- Where a kernel takes pixels (N, C, S), they are turned into rows for all derivatives but its own.

So `torch.func`'s transforms, forward-mode AD and batched gradients compose in any order. Compiled
graphs hold the kernels as torch ops, which have reverse mode only (torch.library's derivatives).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..exporting import in_onnx_export, is_traced
from ..rows import as_rows, laid_out_like
from ..target_errors import translated
from ..transforms import in_forward_mode, in_func_transform, in_transform, without_levels

__all__ = [
    "Constant",
    "Eager",
    "LinearOp",
    "RowOp",
    "Rows",
    "all_as_rows",
    "below_autograd",
    "fast_apply",
]

#: The arguments with an entry per row, each a tensor or None. The first is always a tensor.
Rows: TypeAlias = tuple[Any, ...]

#: A context in which ops call their device's kernel directly, past torch.library's Python autograd.
below_autograd = torch._C._AutoDispatchBelowAutograd


class RowOp:
    """An op of rows x on one backend, as a differentiable function of its arguments.

    The arguments are a named tuple of `hace_kernels.schemas`. The first of them is x; the first
    `num_rows` of them have one entry per row of the batch or are None.
    """

    num_rows = 1

    def __call__(self, arguments: tuple[Any, ...]) -> Tensor:
        """The value."""
        rows, rest = arguments[: self.num_rows], arguments[self.num_rows :]
        if torch.compiler.is_compiling():
            # torch.library knows only reverse mode of an op, and other runtimes do not know the op
            # at all.
            if in_forward_mode() or _is_traced_in_a_transform() or in_onnx_export():
                return self.plain(*arguments)
            return self.in_graph(arguments)
        if is_traced():
            return self.plain(*arguments) if in_onnx_export() else self.in_graph(arguments)
        value: Tensor
        try:
            if in_transform():
                if _is_forward_over_forward():
                    return self.reference(rows, rest)
                constant = Constant(without_levels(rest))
                value = _Value.apply(self, constant, *rows)  # type: ignore[no-untyped-call]
            elif rows[0].requires_grad and torch.is_grad_enabled():
                value = Eager.apply(self, rest, *rows)  # type: ignore[no-untyped-call]
            else:
                value = self.value(rows, rest)
        except RuntimeError as error:
            raise translated(error) from None
        return value

    def bound(self, rest: tuple[Any, ...]) -> Callable[..., Tensor]:
        """The value with ordinary gradients, as a function of rows that no transform made.

        Errors of the compiled library are raised as they are, untranslated.
        """
        return partial(fast_apply(Eager), self, rest)

    # ---- what each op defines ----

    def in_graph(self, arguments: tuple[Any, ...]) -> Tensor:
        """The value, by the torch op that a compiled graph holds."""
        raise NotImplementedError

    def value(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        """f(x), by its kernel."""
        raise NotImplementedError

    def value_and_gradient(self, rows: Rows, rest: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
        """f(x), and its gradient for an incoming one of 1 where it pays to compute both at once."""
        return self.value(rows, rest), None

    def gradient(self, grad: Tensor, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        """`J(x)ᵀ g`, by its kernel."""
        raise NotImplementedError

    def scaled(self, gradient: Tensor, grad: Tensor) -> Tensor:
        """The `gradient` of `value_and_gradient` times the incoming `grad`; may be in place."""
        raise NotImplementedError

    def reference(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        """f(x) in plain PyTorch."""
        raise NotImplementedError

    def directional(self, rows: Rows, rest: Constant, tangent: Tensor) -> Tensor:
        """`J(x) t`, as the gradient in g of `J(x)ᵀ g`, which is linear in g."""
        value, pull, *_ = torch.func.vjp(lambda x: self._reference_of(x, rows, rest), rows[0])
        zero = torch.zeros_like(value)
        _, push, *_ = torch.func.vjp(lambda grad: pull(grad)[0], zero)
        result: Tensor = push(tangent.to(rows[0].dtype))[0]
        return result

    def value_of_batch(self, rows: Rows, rest: Constant) -> Tensor:
        """f of rows (V, B, …), by a call on rows (V · B, …)."""
        value: Tensor = _Value.apply(self, rest, *_folded(rows))  # type: ignore[no-untyped-call]
        return _unfolded(value, rows)

    def gradient_of_batch(self, grad: Tensor, rows: Rows, rest: Constant) -> Tensor:
        """The gradient of rows (V, B, …), by a call on rows (V · B, …)."""
        gradient: Tensor = _Gradient.apply(  # type: ignore[no-untyped-call]
            self, rest, _as_one_batch(grad), *_folded(rows)
        )
        return _unfolded(gradient, rows)

    def differentiable_gradient(self, grad: Tensor, rows: Rows, rest: Constant) -> Tensor:
        """`J(x)ᵀ g` by the kernel, with derivatives of its own."""
        gradient: Tensor = _Gradient.apply(  # type: ignore[no-untyped-call]
            self, rest, grad, *all_as_rows(rows)
        )
        return laid_out_like(gradient, rows[0])

    # ---- what follows from the reference ----

    def plain(self, *arguments: Any) -> Tensor:
        """f(x) in plain PyTorch, from the op's arguments as separate arguments."""
        rows, rest = arguments[: self.num_rows], arguments[self.num_rows :]
        return self.reference(all_as_rows(rows), rest)

    def plain_gradient(self, grad: Tensor, *arguments: Any) -> Tensor:
        """`J(x)ᵀ g` in plain PyTorch."""
        others, rest = arguments[1 : self.num_rows], arguments[self.num_rows :]
        _, pull, *_ = torch.func.vjp(
            lambda x: self.reference(all_as_rows((x, *others)), rest), arguments[0]
        )
        gradient: Tensor = pull(grad)[0]
        return gradient

    def _reference_of(self, x: Tensor, rows: Rows, rest: Constant) -> Tensor:
        return self.reference((x, *rows[1:]), rest.value)

    def hessian_product(self, vector: Tensor, grad: Tensor, rows: Rows, rest: Constant) -> Tensor:
        """The Hessian of `gᵀ f(x)` times a vector, by the reference."""

        def gradient(x: Tensor) -> Any:
            _, pull, *_ = torch.func.vjp(lambda x: self._reference_of(x, rows, rest), x)
            return pull(grad)[0]

        _, pull, *_ = torch.func.vjp(gradient, rows[0])
        product: Tensor = pull(vector)[0]
        return product


class LinearOp(RowOp):
    """An op that is linear in x; its gradient is the value of another such op, `transpose`."""

    transpose: LinearOp

    def gradient(self, grad: Tensor, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        """`Jᵀ g`."""
        return self.transpose((grad, *rest))

    def differentiable_gradient(self, grad: Tensor, rows: Rows, rest: Constant) -> Tensor:
        """`Jᵀ g`."""
        return self.transpose((grad, *rest.value))

    def directional(self, rows: Rows, rest: Constant, tangent: Tensor) -> Tensor:
        """`J t`."""
        if not torch._C._functorch.is_legacy_batchedtensor(tangent):
            return self((tangent, *rest.value))
        # Of vectorized `torch.autograd.functional.jacobian`.
        batches, level = _unbatched(tangent)
        return torch._add_batch_dim(self.value_of_batch((batches,), rest), 0, level)


class Constant:
    """Wraps a value so that no transform looks into it."""

    def __init__(self, value: tuple[Any, ...]) -> None:
        self.value = value


def all_as_rows(rows: Rows) -> Rows:
    """The same arguments, with pixels (N, C, S) turned into rows."""
    if rows[0].dim() == 2:
        return rows
    return tuple(as_rows(x) if x is not None and x.dim() == 3 else x for x in rows)


def _save(ctx: Any, rows: Sequence[Tensor | None]) -> None:
    ctx.save_for_backward(*rows)
    ctx.save_for_forward(*rows)


def _nothing(rows: Sequence[Tensor | None]) -> list[None]:
    """The gradients (None) of all arguments with an entry per row, except x."""
    return [None] * (len(rows) - 1)


class Eager(torch.autograd.Function):
    """Reverse mode outside of all transforms: the same as `_Value`, with less overhead."""

    @staticmethod
    def forward(ctx: Any, op: RowOp, rest: tuple[Any, ...], *rows: Tensor | None) -> Tensor:
        value, ctx.made = op.value_and_gradient(rows, rest)
        ctx.op, ctx.rest = op, rest
        ctx.save_for_backward(*rows)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        # The caller may add to the gradient in place, so the first backward gives it away, and a
        # second one computes it again. Only this one needs x, and checks that x is unchanged.
        op: RowOp = ctx.op
        made, ctx.made = ctx.made, None
        others = [None] * (op.num_rows - 1)
        if _is_legacy_batched(grad):
            gradient = _batched_gradient(op, grad, ctx.saved_tensors, Constant(ctx.rest))
        elif torch.is_grad_enabled() or in_func_transform():
            rows = ctx.saved_tensors
            gradient = op.differentiable_gradient(grad, rows, Constant(ctx.rest))
        elif made is not None:
            gradient = op.scaled(made, grad)
        else:
            gradient = op.gradient(grad, ctx.saved_tensors, ctx.rest)
        return (None, None, gradient, *others)


def fast_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`apply` without a search for transforms, which is a tenth of a small call's time."""
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply


_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor


class _Value(torch.autograd.Function):
    """`f(x)` under transforms."""

    @staticmethod
    def forward(op: RowOp, rest: Constant, *rows: Tensor | None) -> Tensor:
        return op.value(rows, rest.value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, ctx.rest, *rows = inputs
        _save(ctx, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        rows = ctx.saved_tensors
        gradient = ctx.op.differentiable_gradient(grad, rows, ctx.rest)
        return (None, None, gradient, *_nothing(rows))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        tangent = tangents[2]
        return None if tangent is None else ctx.op.directional(ctx.saved_tensors, ctx.rest, tangent)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, op: RowOp, rest: Constant, *rows: Tensor | None
    ) -> tuple[Tensor, int]:
        return op.value_of_batch(_batch_first(rows, in_dims[2:], info.batch_size), rest), 0


class _Gradient(torch.autograd.Function):
    """`J(x)ᵀ g`, with derivatives in g and in x."""

    @staticmethod
    def forward(op: RowOp, rest: Constant, grad: Tensor, *rows: Tensor | None) -> Tensor:
        return op.gradient(grad, rows, rest.value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, ctx.rest, *tensors = inputs
        _save(ctx, tensors)

    @staticmethod
    def backward(ctx: Any, vector: Tensor) -> tuple[Any, ...]:
        op, rest = ctx.op, ctx.rest
        grad, *rows = ctx.saved_tensors
        grad_of_grad = grad_of_x = None
        if ctx.needs_input_grad[2]:
            grad_of_grad = op.directional(rows, rest, vector)
        if ctx.needs_input_grad[3]:
            grad_of_x = op.hessian_product(vector, grad, rows, rest)
        return (None, None, grad_of_grad, grad_of_x, *_nothing(rows))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        op, rest = ctx.op, ctx.rest
        grad, *rows = ctx.saved_tensors
        result = None
        if tangents[2] is not None:
            result = op.differentiable_gradient(tangents[2], rows, rest)
        if tangents[3] is not None:
            along_x = op.hessian_product(tangents[3], grad, rows, rest)
            result = along_x if result is None else result + along_x
        return result

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, op: RowOp, rest: Constant, *tensors: Tensor | None
    ) -> tuple[Tensor, int]:
        grad, *rows = _batch_first(tensors, in_dims[2:], info.batch_size)
        assert grad is not None
        return op.gradient_of_batch(grad, tuple(rows), rest), 0


def _is_traced_in_a_transform() -> bool:
    """Whether a function under a torch.func transform is being traced: the tracer enters these."""
    return in_func_transform()


# The effect of torch.compiler.assume_constant_result, which would take 1.6 s to import.
_is_traced_in_a_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _is_forward_over_forward() -> bool:
    """Whether forward mode is nested in forward mode.

    There PyTorch (2.13) silently drops the outer tangents of every autograd.Function.
    """
    stack = torch._C._functorch.get_interpreter_stack() or []
    return sum(one.key() == torch._C._functorch.TransformType.Jvp for one in stack) > 1


def _batched_gradient(op: RowOp, grad: Tensor, rows: Rows, rest: Constant) -> Tensor:
    """The gradient under `is_grads_batched=True`, which uses an older vmap of PyTorch."""
    grad, level = _unbatched(grad)
    batches = _batch_first(all_as_rows(rows), [None] * len(rows), len(grad))
    gradient = laid_out_like(op.gradient_of_batch(grad, batches, rest), rows[0])
    return torch._add_batch_dim(gradient, 0, level)


def _unbatched(x: Tensor) -> tuple[Tensor, int]:
    """A tensor of the older vmap with its innermost batch as first dimension, and that one's level.

    PyTorch tells the level of the calling thread only; a GPU's backward has its own thread.
    """
    for level in range(_MOST_LEVELS, 0, -1):
        found = torch._remove_batch_dim(x, level, _NO_SUCH_BATCH, 0)
        if found.shape[0] != _NO_SUCH_BATCH:
            return found, level
    raise AssertionError("the tensor is not a batch")


# PyTorch's own limit; and a size that no batch has, which is that of tensors without the level.
_MOST_LEVELS, _NO_SUCH_BATCH = 64, 2**40 + 1


def _batch_first(
    tensors: Sequence[Tensor | None], dims: Sequence[int | None], size: int
) -> tuple[Tensor | None, ...]:
    """All arguments with the batch as their first dimension; those without one are repeated."""

    def moved(x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None:
            return None
        return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)

    return tuple(moved(x, dim) for x, dim in zip(tensors, dims, strict=True))


def _folded(rows: Rows) -> Rows:
    """Arguments (V, B, …) as (V · B, …), which the kernels take."""
    return tuple(None if x is None else _as_one_batch(x).contiguous() for x in rows)


def _as_one_batch(x: Tensor) -> Tensor:
    """(V, B, …) as (V · B, …). In torch 2.11 vmap has no rule for `flatten`."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _unfolded(x: Tensor, rows: Rows) -> Tensor:
    """A result (V · B, …) as (V, B, …)."""
    return x.reshape(*rows[0].shape[:2], *x.shape[1:])
