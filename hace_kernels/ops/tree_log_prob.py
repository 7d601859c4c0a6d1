"""`tree_log_prob`: the log-probability of every node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .. import native, reference, triton
from ..backends import resolve
from ..closure_table import ClosureTable
from ..exporting import add_decomposition
from ..reference.dag import dag_log_prob
from ..registry import register
from ..rows import loss_dtype
from ..schemas import TreeArguments
from ..tree_table import TreeTable
from .checks import check_devices, check_rows, no_grad_of
from .derivatives import Constant, RowOp, Rows, below_autograd
from .graph_autograd import register_reverse_mode
from .node_tables import num_nodes_of_dag, num_nodes_of_tree, tree_arguments

__all__ = ["tree_log_prob"]


def tree_log_prob(
    logits: Tensor, tree: TreeTable | ClosureTable, *, backend: str = "auto"
) -> Tensor:
    """`log P_v` of every node v: the log of the sum of the softmax over each subtree.

    It is computed in log space, so that it is exact even where P_v is far below the smallest float.
    Nodes whose columns are all −inf, or that do not have any, get −inf and pass no gradient on. A
    row that is −inf throughout, or contains +inf or NaN, gives NaN.

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
    check_devices(logits, tree=tree.device)
    name = "dag_log_prob" if isinstance(tree, ClosureTable) else "tree_log_prob"
    op = resolve(name, backend, logits)
    return cast(Tensor, op(tree_arguments(logits, tree)))


class _LogProbOp(RowOp):
    """The op `name` as a differentiable function, with its reference and its fake kernel."""

    def __init__(
        self,
        name: str,
        of_reference: Callable[[TreeArguments], Tensor],
        fake: Callable[[Tensor, list[Tensor], list[int]], Tensor],
    ) -> None:
        self.of_reference = of_reference
        self.kernel = getattr(torch.ops.hace_kernels, name).default
        self.backward_kernel = getattr(torch.ops.hace_kernels, f"{name}_backward").default
        torch.library.register_fake(f"hace_kernels::{name}", fake)
        torch.library.register_fake(f"hace_kernels::{name}_backward", _fake_backward)
        add_decomposition(name, self.plain)
        add_decomposition(f"{name}_backward", self.plain_gradient)
        register_reverse_mode(name, self._backward_in_graph, _setup_in_graph)
        register_reverse_mode(f"{name}_backward")

    def in_graph(self, arguments: tuple[Any, ...]) -> Tensor:
        return cast(Tensor, self.kernel(*arguments))

    def value(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        with below_autograd():
            return cast(Tensor, self.kernel(*rows, *rest))

    def gradient(self, grad: Tensor, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        with below_autograd():
            return cast(Tensor, self.backward_kernel(grad.contiguous(), *rows, *rest))

    def reference(self, rows: Rows, rest: tuple[Any, ...]) -> Tensor:
        return self.of_reference(TreeArguments(rows[0], *rest))

    def _backward_in_graph(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        logits, *tree = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: to be differentiated again
            rest = Constant((tree, ctx.level_ptr))
            gradient = self.differentiable_gradient(grad, (logits,), rest)
        else:
            gradient = self.backward_kernel(grad.contiguous(), logits, tree, ctx.level_ptr)
        return gradient, no_grad_of(tree), None


def _setup_in_graph(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, tree, ctx.level_ptr = inputs
    ctx.save_for_backward(logits, *tree)


def _reference(call: TreeArguments) -> Tensor:
    """The reference, called with the op's arguments."""
    return reference.tree_log_prob(call.rows, TreeTable.of_tensors(call.tree, call.level_ptr))


def _dag_reference(call: TreeArguments) -> Tensor:
    dag = ClosureTable.of_tensors(call.tree, call.level_ptr)
    return dag_log_prob(call.rows, dag, spread_dead=False)


def _fake(rows: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return _log_probs(rows, num_nodes_of_tree(tree))


def _dag_fake(rows: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return _log_probs(rows, num_nodes_of_dag(tree))


def _log_probs(rows: Tensor, num_nodes: int) -> Tensor:
    return rows.new_empty((rows.shape[0], num_nodes), dtype=loss_dtype(rows.dtype))


def _fake_backward(grad: Tensor, rows: Tensor, tree: list[Tensor], level_ptr: list[int]) -> Tensor:
    return rows.new_empty(rows.shape)


register("tree_log_prob", {"reference": _reference})
register("dag_log_prob", {"reference": _dag_reference})
if native.load_error is None:
    _of_trees = _LogProbOp("tree_log_prob", _reference, _fake)
    register("tree_log_prob", {"cpu": _of_trees, "cuda": _of_trees})
    _of_dags = _LogProbOp("dag_log_prob", _dag_reference, _dag_fake)
    register("dag_log_prob", {"cpu": _of_dags, "cuda": _of_dags})
if triton.load_error is None:
    _of_trees = _LogProbOp("triton_tree_log_prob", _reference, _fake)
    register("tree_log_prob", {"triton": _of_trees})
    _of_dags = _LogProbOp("triton_dag_log_prob", _dag_reference, _dag_fake)
    register("dag_log_prob", {"triton": _of_dags})
