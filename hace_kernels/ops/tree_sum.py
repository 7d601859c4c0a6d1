"""`tree_sum_up` and `tree_sum_down`: sums over subtrees and along paths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from .. import native, reference, triton
from ..closure import closure_sum_down, closure_sum_up
from ..closure_table import ClosureTable
from ..tree_table import TreeTable
from .checks import check_rows, for_kernel, no_grad_of, resolve_for

__all__ = ["tree_sum_down", "tree_sum_up"]


def tree_sum_up(values: Tensor, tree: TreeTable | ClosureTable, *, backend: str = "auto") -> Tensor:
    """For every node the sum of the columns at or below it.

    It is linear, and its transpose is `tree_sum_down`, which is its backward. With a table whose
    columns are the nodes themselves, (B, N) goes to (B, N).

    Args:
        values: (B, C), float16, bfloat16, float32 or float64, any strides.
        tree: the tree over the C columns, or the DAG, on the values' device. On a DAG every column
            and every node counts once.
        backend: "auto", or one of `hace_kernels.backends()`.

    Returns:
        (B, N) by node id, of the values' dtype; half precision is summed in float32. 0 at nodes
        without a column.

    Raises:
        ValueError: values of a wrong shape.
        TypeError: values that are not floating point.
        BackendError: the backend asked for cannot run here.
    """
    check_rows("values", values, tree.num_classes, "class of the tree")
    chosen = resolve_for(tree, backend, values)
    if isinstance(tree, ClosureTable):
        return closure_sum_up(values, tree)
    if chosen == "reference":
        return reference.tree_sum_up(values, tree)
    return cast(Tensor, _OPS[chosen].up(for_kernel(values), tree.tensors, tree.level_ptr))


def tree_sum_down(
    values: Tensor, tree: TreeTable | ClosureTable, *, backend: str = "auto"
) -> Tensor:
    """For every column the sum over its node and all nodes above.

    It is linear, and its transpose is `tree_sum_up`, which is its backward. With one vector a node,
    it gives each class the sum of its ancestors': the class weights of the Tree Loss (Wang &
    Izbicki 2022).

    Args:
        values: (B, N) by node id, float16, bfloat16, float32 or float64, any strides.
        tree: the tree over the C columns, or the DAG, on the values' device. On a DAG every column
            and every node counts once.
        backend: "auto", or one of `hace_kernels.backends()`.

    Returns:
        (B, C), of the values' dtype; half precision is summed in float32.

    Raises:
        ValueError: values of a wrong shape.
        TypeError: values that are not floating point.
        BackendError: the backend asked for cannot run here.
    """
    check_rows("values", values, tree.num_nodes, "node of the tree")
    chosen = resolve_for(tree, backend, values)
    if isinstance(tree, ClosureTable):
        return closure_sum_down(values, tree)
    if chosen == "reference":
        return reference.tree_sum_down(values, tree)
    return cast(Tensor, _OPS[chosen].down(for_kernel(values), tree.tensors, tree.level_ptr))


class _Ops:
    """The ops of one library, `prefix` before their names, as functions with a gradient."""

    def __init__(self, prefix: str) -> None:
        names = [f"{prefix}tree_sum_up", f"{prefix}tree_sum_down"]
        self.up, self.down = (getattr(torch.ops.hace_kernels, name).default for name in names)
        for name, fake, transpose in zip(
            names, (_fake_up, _fake_down), (self.down, self.up), strict=True
        ):
            torch.library.register_fake(f"hace_kernels::{name}", fake)
            torch.library.register_autograd(
                f"hace_kernels::{name}", partial(_grad, transpose), setup_context=_setup
            )


def _fake_up(values: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return values.new_empty(values.shape[0], tree[0].shape[0])


def _fake_down(values: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return values.new_empty(values.shape[0], tree[1].shape[0] - tree[2].shape[0] + 1)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, tree, ctx.level_ptr = inputs
    ctx.save_for_backward(*tree)


def _grad(transpose: Callable[..., Tensor], ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    tree = list(ctx.saved_tensors)
    return transpose(for_kernel(grad), tree, ctx.level_ptr), no_grad_of(tree), None


_OPS: dict[str, _Ops] = {}
if native.load_error is None:
    _OPS["cpu"] = _OPS["cuda"] = _Ops("")
if triton.load_error is None:
    _OPS["triton"] = _Ops("triton_")
