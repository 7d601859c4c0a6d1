"""A linear layer of nodes whose classes sum the vectors of the nodes above them, on the CPU.

Where the vectors of the classes lie one after the other, as they do in most hierarchies, little is
to be done beside the products of `nn.Linear`:

- *By logits*: the logits of all nodes, summed down the tree. For few logits.
- *By parts*: the logits of the inner nodes are summed down the tree first, and the product of the
  classes' vectors is added to these, as `nn.Linear`'s is to its bias. Gradients of classes'
  vectors are products, as they are, in the rows where they belong.
- *By vectors*: the vectors are summed to class weights first. Gradients of classes' vectors are
  products again, and are summed to those of the inner nodes. For many rows.

The gradients are ordinary ones, for tensors that no transform made; for all others there are ops
that have all derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .. import native
from ..transforms import in_func_transform, in_transform
from ..tree_table import TreeTable
from .derivatives import below_autograd, fast_apply

__all__ = ["ClassRows", "linear_of_nodes", "takes_linear_of_nodes"]

#: The layer as a function of input, weight and bias, by ops that have all derivatives.
Plain: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class ClassRows(NamedTuple):
    """A tree whose classes are leaves, and the first nodes or the last ones, in label order.

    Attributes:
        bound: the tree as the kernels take it.
        tree, level_ptr: the tensors of the tree table, on the CPU, and its levels.
        inner, own: the nodes that are no classes, and the classes.
    """

    bound: Tensor
    tree: list[Tensor]
    level_ptr: list[int]
    inner: slice
    own: slice

    @property
    def num_nodes(self) -> int:
        """N."""
        return int(max(self.inner.stop, self.own.stop))

    @classmethod
    def of(cls, table: TreeTable) -> ClassRows | None:
        """The classes of this tree; None where they lie otherwise, or without the C++ kernels."""
        if native.cpu_lack():
            return None
        num_classes, num_nodes = table.num_classes, table.num_nodes
        others = num_nodes - num_classes
        columns = torch.arange(num_classes, dtype=table.place.dtype, device="cpu")
        for first in {0, others}:
            if first >= 0 and torch.equal(table.place[first : first + num_classes], columns):
                inner = slice(num_classes, num_nodes) if first == 0 else slice(0, others)
                own = slice(first, first + num_classes)
                bound = _bind(table.tensors, first)
                return cls(bound, table.tensors, [*table.level_ptr], inner, own)
        return None


def takes_linear_of_nodes(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `linear_of_nodes` takes these: plain tensors of single or double precision."""
    dtype = weight.dtype
    return (
        type(input) in _PLAIN
        and type(weight) in _PLAIN
        and dtype in _DTYPES
        and input.dtype == dtype
        and input.is_cpu
        and weight.is_cpu
        and (bias is None or (type(bias) in _PLAIN and bias.dtype == dtype))
        and input.dim() > 0
        and input.shape[-1] == weight.shape[1] > 0
        and not in_transform()
        and not torch.is_autocast_enabled("cpu")
    )


_DTYPES = torch.float32, torch.float64
_PLAIN = Tensor, torch.nn.Parameter


def _way(rows: int, features: int, nodes: int, classes: int, grad_of_input: bool) -> int:
    """Which way adds least to the products of `nn.Linear`: 0 by logits, 1 by parts, 2 by vectors.

    In ns, of forward and backward on one thread of a Xeon with AVX-512: 94 products take 1 ns, and
    a call of a few more ops 15 us or 30 us.
    """
    of_inner_nodes = rows * features * (nodes - classes) * (3 if grad_of_input else 2) / 94
    by_logits = of_inner_nodes + 0.9 * rows * classes
    by_parts = of_inner_nodes + 0.42 * rows * classes + 30_000
    by_vectors = 0.56 * features * nodes + 15_000
    if by_vectors < min(by_logits, by_parts):
        return 2
    return 0 if by_logits <= by_parts else 1


def linear_of_nodes(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    classes: ClassRows,
    plain: Plain,
) -> Tensor:
    """The logits (…, C) of input (…, F) for vectors (N, F) of nodes and their biases (N) or None.

    Args:
        input, weight, bias: that `takes_linear_of_nodes`.
        classes: where the classes' vectors lie.
        plain: the same function.
    """
    rows = input if input.dim() == 2 else input.reshape(-1, input.shape[-1])
    nodes, features = weight.shape
    own = classes.own
    way = _way(rows.shape[0], features, nodes, own.stop - own.start, rows.requires_grad)
    logits: Tensor = _WAYS[way](rows, weight, bias, classes, plain)
    return logits if input.dim() == 2 else logits.reshape(*input.shape[:-1], logits.shape[1])


class _LinearOfNodes(torch.autograd.Function):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or in_func_transform() or _is_legacy_batched(grad):
            found = _gradients_of(ctx, needed, grad)
        else:
            with below_autograd():
                grad = grad if grad.stride(1) == 1 else grad.contiguous()
                found = ctx.gradients(ctx.classes, needed, grad, *ctx.saved_tensors)
        return (*found, None, None)


def _keep(
    ctx: Any,
    gradients: Callable[..., Any],
    classes: ClassRows,
    plain: Plain,
    tensors: tuple[Tensor, Tensor, Tensor | None],
    of_classes: Tensor | None = None,
) -> None:
    """Keeps what gradients depend on, as `nn.Linear` does: any other tensor may change or go."""
    rows, weight, bias = tensors
    of_rows, of_weight, _ = ctx.needs_input_grad[:3]
    ctx.save_for_backward(
        rows if of_weight else None, weight if of_rows else None, of_classes if of_rows else None
    )
    ctx.shapes = rows.shape, weight.shape, None if bias is None else bias.shape
    ctx.gradients, ctx.classes, ctx.plain = gradients, classes, plain


class _ByLogits(_LinearOfNodes):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        classes: ClassRows,
        plain: Plain,
    ) -> Tensor:
        _keep(ctx, _gradients_by_logits, classes, plain, (rows, weight, bias))
        with below_autograd():
            of_nodes = F.linear(rows, weight, bias)
            logits: Tensor = _nodes_down(of_nodes, classes.bound)
        return logits


def _gradients_by_logits(
    classes: ClassRows,
    needed: tuple[bool, ...],
    grad: Tensor,
    rows: Tensor,
    weight: Tensor,
    _of_classes: None,
) -> tuple[Tensor | None, ...]:
    of_nodes = _nodes_up(grad, classes.bound)
    return (
        of_nodes.mm(weight) if needed[0] else None,
        of_nodes.t().mm(rows) if needed[1] else None,
        of_nodes.sum(0) if needed[2] else None,
    )


class _ByParts(_LinearOfNodes):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        classes: ClassRows,
        plain: Plain,
    ) -> Tensor:
        _keep(ctx, _gradients_by_parts, classes, plain, (rows, weight, bias))
        with below_autograd():
            inner_bias = None if bias is None else bias[classes.inner]
            own_bias = None if bias is None else bias[classes.own].contiguous()
            above = F.linear(rows, weight[classes.inner], inner_bias)
            logits: Tensor = _hand_down(above, own_bias, classes.bound)
            return logits.addmm_(rows, weight[classes.own].t())


def _gradients_by_parts(
    classes: ClassRows,
    needed: tuple[bool, ...],
    grad: Tensor,
    rows: Tensor,
    weight: Tensor,
    _of_classes: None,
) -> tuple[Tensor | None, ...]:
    above = _gather_up(grad, classes.bound)
    grad_rows = grad_weight = grad_bias = None
    if needed[0]:
        grad_rows = grad.mm(weight[classes.own]).addmm_(above, weight[classes.inner])
    if needed[1]:
        grad_weight = grad.new_empty(classes.num_nodes, rows.shape[1])
        torch.mm(grad.t(), rows, out=grad_weight[classes.own])
        torch.mm(above.t(), rows, out=grad_weight[classes.inner])
    if needed[2]:
        grad_bias = grad.new_empty(classes.num_nodes)
        torch.sum(grad, 0, out=grad_bias[classes.own])
        torch.sum(above, 0, out=grad_bias[classes.inner])
    return grad_rows, grad_weight, grad_bias


class _ByVectors(_LinearOfNodes):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        classes: ClassRows,
        plain: Plain,
    ) -> Tensor:
        with below_autograd():
            vectors = weight if weight.stride(1) == 1 else weight.contiguous()
            of_classes = _sum_down(vectors.t(), classes.tree, classes.level_ptr).t()
            own_bias = None
            if bias is not None:
                own_bias = _nodes_down(bias[None], classes.bound)[0]
            tensors = rows, weight, bias
            _keep(ctx, _gradients_by_vectors, classes, plain, tensors, of_classes)
            return F.linear(rows, of_classes, own_bias)


def _gradients_by_vectors(
    classes: ClassRows,
    needed: tuple[bool, ...],
    grad: Tensor,
    rows: Tensor,
    _weight: Tensor,
    of_classes: Tensor,
) -> tuple[Tensor | None, ...]:
    grad_rows = grad_weight = grad_bias = None
    if needed[0]:
        grad_rows = grad.mm(of_classes)
    if needed[1]:
        grad_weight = grad.new_empty(classes.num_nodes, rows.shape[1])
        torch.mm(grad.t(), rows, out=grad_weight[classes.own])
        _vectors_up(grad_weight, classes.bound)
    if needed[2]:
        grad_bias = _nodes_up(grad.sum(0, keepdim=True), classes.bound)[0]
    return grad_rows, grad_weight, grad_bias


_WAYS = [fast_apply(way) for way in (_ByLogits, _ByParts, _ByVectors)]
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
_bind = torch.ops.hace_kernels.tree_linear_bind.default
_nodes_down = torch.ops.hace_kernels.tree_linear_nodes_down.default
_nodes_up = torch.ops.hace_kernels.tree_linear_nodes_up.default
_hand_down = torch.ops.hace_kernels.tree_linear_hand_down.default
_gather_up = torch.ops.hace_kernels.tree_linear_gather_up.default
_vectors_up = torch.ops.hace_kernels.tree_linear_vectors_up.default
_sum_down = torch.ops.hace_kernels.tree_sum_down.default


def _gradients_of(ctx: Any, needed: tuple[bool, ...], grad: Tensor) -> list[Tensor | None]:
    """The gradients of `plain`, which have derivatives of their own."""
    create_graph = torch.is_grad_enabled()
    rows, weight, _ = ctx.saved_tensors

    def argument(kept: Tensor | None, shape: torch.Size | None, is_needed: bool) -> Any:
        if kept is not None:  # as a view: rows that come from the weight hide no path to it
            return kept.view_as(kept)
        if shape is None:
            return None
        zero = torch.zeros((), dtype=grad.dtype, device=grad.device)
        return zero.expand(shape).requires_grad_(is_needed)  # no gradient depends on it

    with torch.enable_grad():
        tensors = list(map(argument, (rows, weight, None), ctx.shapes, needed))
        value = ctx.plain(*tensors)
    which = [x for x, is_needed in zip(tensors, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(value, which, grad, create_graph=create_graph))
    return [next(found) if is_needed else None for is_needed in needed]
