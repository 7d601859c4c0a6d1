"""`tree_sum_up` and `tree_sum_down`: sums over subtrees and along paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from .node_tables import (
    num_classes_of_dag,
    num_classes_of_tree,
    num_nodes_of_dag,
    num_nodes_of_tree,
)

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
    kind = "dag" if isinstance(tree, ClosureTable) else "tree"
    sizes = tree.sizes if isinstance(tree, ClosureTable) else [*tree.level_ptr]
    arguments = TreeArguments(values, tree.tensors, sizes)
    return cast(Tensor, resolve(f"{kind}_{op}", backend, values)(arguments))


class _SumOp(LinearOp):
    """One of the two ops as a differentiable function; `transpose` is the other one."""

    def __init__(
        self,
        name: str,
        reference: Callable[[TreeArguments], Tensor],
        width: Callable[[Sequence[Tensor]], int],
    ) -> None:
        self.of_reference = reference
        self.kernel = getattr(torch.ops.hace_kernels, name).default
        self.takes_columns = name.startswith("tree_") and native.cuda_device_type != "cpu"

        def fake(rows: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
            if self._lie_side_by_side(rows):
                return rows.new_empty(width(tree), rows.shape[0]).T
            return rows.new_empty(rows.shape[0], width(tree))

        torch.library.register_fake(f"hace_kernels::{name}", fake)
        add_decomposition(name, self.plain)
        register_reverse_mode(name, self._backward_in_graph, _setup_in_graph)

    def in_graph(self, arguments: tuple[Any, ...]) -> Tensor:
        rows, *rest = arguments
        return cast(Tensor, self.kernel(for_kernel(rows), *rest))

    def value(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        values, *_ = rows
        values = values if self._lie_side_by_side(values) else for_kernel(values)
        with below_autograd():
            return cast(Tensor, self.kernel(values, *rest))

    def reference(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        return self.of_reference(TreeArguments(rows[0], *rest))

    def _lie_side_by_side(self, rows: Tensor) -> bool:
        """Whether columns are contiguous instead of rows, and the kernel takes and gives that."""
        if not self.takes_columns or rows.device.type != "cpu":
            return False
        return rows.stride(1) != 1 and rows.stride(0) == 1

    def _backward_in_graph(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        tree = list(ctx.saved_tensors)
        gradient = self.transpose((grad, tree, ctx.level_ptr))
        return gradient, no_grad_of(tree), None


def _setup_in_graph(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, tree, ctx.level_ptr = inputs
    ctx.save_for_backward(*tree)


def _reference_up(call: TreeArguments) -> Tensor:
    return reference.tree_sum_up(call.rows, TreeTable.of_tensors(call.tree, call.level_ptr))


def _reference_down(call: TreeArguments) -> Tensor:
    return reference.tree_sum_down(call.rows, TreeTable.of_tensors(call.tree, call.level_ptr))


def _dag_reference_up(call: TreeArguments) -> Tensor:
    return dag_sum_up(call.rows, ClosureTable.of_tensors(call.tree, call.level_ptr))


def _dag_reference_down(call: TreeArguments) -> Tensor:
    return dag_sum_down(call.rows, ClosureTable.of_tensors(call.tree, call.level_ptr))


_REFERENCES = {
    "tree_sum_up": _reference_up,
    "tree_sum_down": _reference_down,
    "dag_sum_up": _dag_reference_up,
    "dag_sum_down": _dag_reference_down,
}

# What gives the width of an op's values.
_WIDTHS = {
    "tree_sum_up": num_nodes_of_tree,
    "tree_sum_down": num_classes_of_tree,
    "dag_sum_up": num_nodes_of_dag,
    "dag_sum_down": num_classes_of_dag,
}


def _register(prefix: str, kind: str, *backends: str) -> None:
    names = f"{kind}_sum_up", f"{kind}_sum_down"
    up, down = (_SumOp(f"{prefix}{name}", _REFERENCES[name], _WIDTHS[name]) for name in names)
    up.transpose, down.transpose = down, up
    for name, op in zip(names, (up, down), strict=True):
        register(name, dict.fromkeys(backends, op))


for _name, _reference in _REFERENCES.items():
    register(_name, {"reference": _reference})
if native.load_error is None:
    _register("", "tree", "cpu", "cuda")
    _register("", "dag", "cpu", "cuda")
if triton.load_error is None:
    _register("triton_", "tree", "triton")
    _register("triton_", "dag", "triton")
