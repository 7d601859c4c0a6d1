"""`tree_log_prob`: the log-probability of every node."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .. import native, reference, triton
from ..closure import closure_log_prob
from ..closure_table import ClosureTable
from ..tree_table import TreeTable
from .checks import check_rows, for_kernel, no_grad_of, resolve_for

__all__ = ["tree_log_prob"]


def tree_log_prob(
    logits: Tensor, tree: TreeTable | ClosureTable, *, backend: str = "auto"
) -> Tensor:
    """`log P_v` of every node v: the log-softmax of the columns, summed over each subtree.

    Exact in log space: a subtree whose mass is far below the smallest float still has its
    logarithm. Nodes whose columns are all −inf, or that have none, get −inf and pass no gradient
    on. A row that is −inf throughout, or has a +inf or a NaN, is NaN.

    Args:
        logits: (B, C), float16, bfloat16, float32 or float64, any strides.
        tree: the tree over the C columns, or the DAG, on the logits' device.
        backend: "auto", or one of `hace_kernels.backends()`.

    Returns:
        (B, N) by node id, float64 for float64 logits and float32 otherwise.

    Raises:
        ValueError: logits of a wrong shape.
        TypeError: logits that are not floating point.
        BackendError: the backend asked for cannot run here.
    """
    check_rows("logits", logits, tree.num_classes, "class of the tree")
    chosen = resolve_for(tree, backend, logits)
    if isinstance(tree, ClosureTable):
        return closure_log_prob(logits, tree, spread_dead=False)
    if chosen == "reference":
        return reference.tree_log_prob(logits, tree)
    return cast(Tensor, _OPS[chosen].forward(for_kernel(logits), tree.tensors, tree.level_ptr))


class _Ops:
    """The op `name` and its backward, as a function with a gradient."""

    def __init__(self, name: str) -> None:
        self.forward = getattr(torch.ops.hace_kernels, name).default
        self.backward = getattr(torch.ops.hace_kernels, f"{name}_backward").default
        torch.library.register_fake(f"hace_kernels::{name}", _fake)
        torch.library.register_fake(f"hace_kernels::{name}_backward", _fake_backward)
        torch.library.register_autograd(
            f"hace_kernels::{name}", self._grad, setup_context=self._setup
        )

    def _setup(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, tree, ctx.level_ptr = inputs
        ctx.save_for_backward(logits, *tree)

    def _grad(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        logits, *tree = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: to be differentiated again
            table = TreeTable.of_tensors(tree, ctx.level_ptr)
            log_p = reference.tree_log_prob(logits, table)
            (result,) = torch.autograd.grad(log_p, logits, grad, create_graph=True)
        else:
            result = self.backward(grad.contiguous(), logits, tree, ctx.level_ptr)
        return result, no_grad_of(tree), None


def _fake(logits: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    shape = (logits.shape[0], tree[0].shape[0])
    return logits.new_empty(shape, dtype=reference.loss_dtype(logits.dtype))


def _fake_backward(
    grad: Tensor, logits: Tensor, tree: list[Tensor], level_ptr: list[int]
) -> Tensor:
    return logits.new_empty(logits.shape)


_OPS: dict[str, _Ops] = {}
if native.load_error is None:
    _OPS["cpu"] = _OPS["cuda"] = _Ops("tree_log_prob")
if triton.load_error is None:
    _OPS["triton"] = _Ops("triton_tree_log_prob")
