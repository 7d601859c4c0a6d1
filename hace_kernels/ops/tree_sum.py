"""`tree_sum_up` and `tree_sum_down`: sums over subtrees and along paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .. import native, reference, triton
from ..backends import resolve
from ..closure_table import ClosureTable
from ..exporting import add_decomposition
from ..reference.dag import dag_sum_down, dag_sum_up
from ..registry import register
from ..schemas import TreeArguments
from ..tree_table import TreeTable
from .checks import check_devices, check_rows, for_kernel, no_grad_of
from .derivatives import LinearOp, Rows, below_autograd
from .graph_autograd import register_reverse_mode

__all__ = ["tree_sum_down", "tree_sum_up"]


def tree_sum_up(values: Tensor, tree: TreeTable | ClosureTable, *, backend: str = "auto") -> Tensor:
    """For every node the sum of the columns at or below it.

    It is linear; its transpose, and so its backward, is `tree_sum_down`. With a table whose columns
    are the nodes themselves, it takes (B, N) to (B, N).

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
    check_devices(values, tree=tree.device)
    return _call("sum_up", values, tree, backend)


def tree_sum_down(
    values: Tensor, tree: TreeTable | ClosureTable, *, backend: str = "auto"
) -> Tensor:
    """For every column the sum over its node and all nodes above.

    It is linear; its transpose, and so its backward, is `tree_sum_up`. With one vector per node, it
    gives each class the sum of its ancestors' vectors: the class weights of the Tree Loss (Wang &
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
    check_devices(values, tree=tree.device)
    return _call("sum_down", values, tree, backend)


def _call(op: str, values: Tensor, tree: TreeTable | ClosureTable, backend: str) -> Tensor:
    if isinstance(tree, ClosureTable):
        return cast(Tensor, resolve(f"dag_{op}", backend, values)(values, tree))
    arguments = TreeArguments(for_kernel(values), tree.tensors, [*tree.level_ptr])
    return cast(Tensor, resolve(f"tree_{op}", backend, values)(arguments))


class _SumOp(LinearOp):
    """One of the two ops as a differentiable function; `transpose` is the other one."""

    def __init__(self, name: str, reference: Callable[[TreeArguments], Tensor]) -> None:
        self.of_reference = reference
        self.kernel = getattr(torch.ops.hace_kernels, name).default
        fake = _fake_up if name.endswith("up") else _fake_down
        torch.library.register_fake(f"hace_kernels::{name}", fake)
        add_decomposition(name, self.plain)
        register_reverse_mode(name, self._backward_in_graph, _setup_in_graph)

    def in_graph(self, arguments: tuple[Any, ...]) -> Tensor:
        return cast(Tensor, self.kernel(*arguments))

    def value(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        with below_autograd():
            return cast(Tensor, self.kernel(for_kernel(rows[0]), *rest))

    def reference(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        return self.of_reference(TreeArguments(rows[0], *rest))

    def _backward_in_graph(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        tree = list(ctx.saved_tensors)
        gradient = self.transpose((for_kernel(grad), tree, ctx.level_ptr))
        return gradient, no_grad_of(tree), None


def _pair(prefix: str) -> tuple[_SumOp, _SumOp]:
    up = _SumOp(f"{prefix}tree_sum_up", _reference_up)
    down = _SumOp(f"{prefix}tree_sum_down", _reference_down)
    up.transpose, down.transpose = down, up
    return up, down


def _fake_up(rows: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return rows.new_empty(rows.shape[0], tree[0].shape[0])


def _fake_down(rows: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return rows.new_empty(rows.shape[0], tree[1].shape[0] - tree[2].shape[0] + 1)


def _setup_in_graph(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, tree, ctx.level_ptr = inputs
    ctx.save_for_backward(*tree)


def _reference_up(call: TreeArguments) -> Tensor:
    return reference.tree_sum_up(call.rows, TreeTable.of_tensors(call.tree, call.level_ptr))


def _reference_down(call: TreeArguments) -> Tensor:
    return reference.tree_sum_down(call.rows, TreeTable.of_tensors(call.tree, call.level_ptr))


register("tree_sum_up", {"reference": _reference_up})
register("tree_sum_down", {"reference": _reference_down})
register("dag_sum_up", {"reference": dag_sum_up})
register("dag_sum_down", {"reference": dag_sum_down})
if native.load_error is None:
    _up, _down = _pair("")
    register("tree_sum_up", {"cpu": _up, "cuda": _up})
    register("tree_sum_down", {"cpu": _down, "cuda": _down})
if triton.load_error is None:
    _up, _down = _pair("triton_")
    register("tree_sum_up", {"triton": _up})
    register("tree_sum_down", {"triton": _down})
