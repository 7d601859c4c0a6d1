"""`tree_log_loss`: soft targets over a whole tree."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .. import native, reference, triton
from ..backends import resolve
from ..closure_table import ClosureTable
from ..registry import register
from ..rows import REDUCTIONS, as_rows, loss_dtype, num_rows, row_weights
from ..schemas import TreeLogLossArguments
from ..target_table import TargetTable
from ..transforms import is_differentiated
from ..tree_table import TreeTable
from ..widest import widened, widest_dtype
from .checks import check_devices, check_options, check_rows_or_pixels, for_kernel
from .loss import LossOp

__all__ = ["tree_log_loss", "tree_log_loss_gradient", "tree_log_loss_rest"]


def tree_log_loss(
    logits: Tensor,
    target: Tensor | tuple[Tensor, Tensor],
    tree: TreeTable | ClosureTable,
    table: TargetTable,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    eps: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Log-loss at every node, for mass that goes up the tree: `L = -sum_v q_v log(P_v + eps)`.

    `P_v` is the softmax mass of the columns at or below node v. The target puts mass t_v on nodes;
    each keeps a share of what reaches it and hands the rest to its parent: `q_v = keep_v m_v` with
    `m_v = t_v + sum_{children c} (1 - keep_c) m_c`. HACE with dilution d (arXiv 2605.06274, section
    3) has keep = d below the roots and 1 at them. 0 log 0 is 0.

    Args:
        logits: (B, C), float16, bfloat16, float32 or float64, any strides; or (N, C, S), as images
            have their pixels, for B = N·S rows: those of `logits[0]` along S, then the next ones'.
        target: probabilities (B, T), or (N, T, S) beside logits (N, C, S), floating; or indices
            (B,), int64; or a few weighted indices per row, as the pair (index (B, K), weight
            (B, K)). For a target that requires a gradient, the reference computes the loss.
        tree: the tree over the C columns, or the DAG, on the logits' device. On a DAG a node hands
            the rest of its mass to its parents in equal parts.
        table: what each of the T targets puts where, on the logits' device.
        ignore_index: rows with this index count for nothing; in a pair, such an entry adds nothing.
        reduction: "none", "sum", or "mean", which divides by the sum of the rows' weights for
            indices (B,), and by B for other targets.
        eps: added to each probability inside the logarithm.
        backend: "auto", or one of `hace_kernels.backends()`.

    Returns:
        The loss, float64 for float64 logits and float32 otherwise: a scalar, or (B,) with "none".

    Raises:
        IndexError: a target is out of range or has no class at or below it. This is raised on the
            CPU in eager mode; compiled code raises RuntimeError, and an accelerator gives NaN for
            the row.
        ValueError: shapes or options that do not fit.
        TypeError: logits that are not floating point, or targets of a wrong type.
        BackendError: the backend asked for cannot run here.
    """
    _check(logits, target, tree, table)
    check_options(reduction, eps)
    if isinstance(tree, ClosureTable) and logits.dim() == 3:
        logits = as_rows(logits)
        target = as_rows(target) if isinstance(target, Tensor) and target.dim() == 3 else target
    mass, indices, weight = None, None, None
    if isinstance(target, tuple):
        indices, weight = target
    elif target.is_floating_point():
        mass = target
    else:
        indices = target[:, None]
    if is_differentiated(mass, weight, *table.tensors):
        backend = "reference"
    name = "dag_log_loss" if isinstance(tree, ClosureTable) else "tree_log_loss"
    loss = resolve(name, backend, logits)(
        TreeLogLossArguments(
            for_kernel(logits),
            None if mass is None else for_kernel(mass.to(loss_dtype(logits.dtype))),
            None if indices is None else indices.contiguous(),
            None if weight is None else widened(weight).contiguous(),
            *tree_log_loss_rest(tree, table, ignore_index, reduction, eps),
        )
    )
    return cast(Tensor, loss)


def tree_log_loss_rest(
    tree: TreeTable | ClosureTable,
    table: TargetTable,
    ignore_index: int,
    reduction: str,
    eps: float,
) -> tuple[list[Tensor], list[int], list[Tensor | None], float, int, int, float]:
    """The fields of `TreeLogLossArguments` after those that have an entry per row."""
    sizes = [*(tree.sizes if isinstance(tree, ClosureTable) else tree.level_ptr)]
    number = REDUCTIONS.index(reduction)
    return tree.tensors, sizes, table.tensors, table.row_spread, ignore_index, number, eps


def tree_log_loss_gradient(
    grad_loss: Tensor,
    logits: Tensor,
    target: Tensor,
    tree: TreeTable,
    table: TargetTable,
    *,
    backend: str = "auto",
) -> Tensor:
    """The gradient (B, C) of the logits, given those of the rows' losses; in one pass if possible.

    Args:
        grad_loss: (B), in the loss's dtype.
        logits, target, tree, table, backend: as in `tree_log_loss`, contiguous; targets are int64
            (B), or probabilities.
    """
    is_mass = target.is_floating_point()
    call = TreeLogLossArguments(
        logits,
        target if is_mass else None,
        None if is_mass else target[:, None],
        None,
        *tree_log_loss_rest(tree, table, -100, "none", 0.0),
    )
    op = resolve("tree_log_loss", backend, logits)
    if isinstance(op, LossOp):
        return op.gradient(grad_loss, call[: op.num_rows], call[op.num_rows :])
    with torch.enable_grad():
        z = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(op(call._replace(logits=z)), z, grad_loss)
    return gradient


def _check(
    logits: Tensor,
    target: Tensor | tuple[Tensor, Tensor],
    tree: TreeTable | ClosureTable,
    table: TargetTable,
) -> None:
    check_rows_or_pixels("logits", logits, tree.num_classes, "class of the tree")
    first, second = target if isinstance(target, tuple) else (target, None)
    check_devices(logits, target=first.device, tree=tree.device, table=table.device)
    if second is not None:
        check_devices(logits, weights=second.device)
    rows = num_rows(logits)
    if isinstance(target, tuple):
        index, weight = target
        if index.dtype != torch.int64 or not weight.is_floating_point():
            raise TypeError(
                f"a pair (index, weight) must be int64 and floating point, got {index.dtype} and "
                f"{weight.dtype}"
            )
        if index.dim() != 2 or index.shape[0] != rows or weight.shape != index.shape:
            raise ValueError(
                f"index and weight of a pair must be ({rows}, K), for {rows} rows of logits; got "
                f"{tuple(index.shape)} and {tuple(weight.shape)}"
            )
    elif target.is_floating_point():
        check_rows_or_pixels("target", target, table.num_targets, "target")
        if target.shape[0] != logits.shape[0] or target.shape[2:] != logits.shape[2:]:
            raise ValueError(
                f"target must have the rows of logits {tuple(logits.shape)}; got "
                f"{tuple(target.shape)}"
            )
        if table.soft_labels is not None:
            raise ValueError("soft labels are made from indices, but the target is probabilities")
    elif target.dtype != torch.int64:
        raise TypeError(f"target must be int64 or floating point, got {target.dtype}")
    elif target.shape != (rows,):
        raise ValueError(
            f"target must be ({rows},), one index per row of logits; got {tuple(target.shape)}"
        )


def _target_of(
    mass: Tensor | None, indices: Tensor | None, weight: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    if mass is not None:
        return as_rows(mass)
    assert indices is not None
    return indices[:, 0] if weight is None else (indices, weight)


def _reference(call: TreeLogLossArguments) -> Tensor:
    return _of_reference(call, TreeTable.of_tensors(call.tree, call.level_ptr))


def _dag_reference(call: TreeLogLossArguments) -> Tensor:
    return _of_reference(call, ClosureTable.of_tensors(call.tree, call.level_ptr))


def _of_reference(call: TreeLogLossArguments, tree: TreeTable | ClosureTable) -> Tensor:
    """The reference's loss."""
    return reference.tree_log_loss(
        as_rows(call.logits),
        _target_of(call.mass, call.indices, call.index_weight),
        tree,
        TargetTable.of_tensors(call.table, call.row_spread),
        ignore_index=call.ignore_index,
        reduction=REDUCTIONS[call.reduction],
        eps=call.eps,
    )


def _total_weight(call: TreeLogLossArguments) -> Tensor:
    """What `mean` divides by: a row with one index counts its target's weight, others 1."""
    dtype = widest_dtype(call.logits.device)
    if call.indices is None or call.index_weight is not None:
        num_batches, num_rows = call.logits.shape[:2]
        return call.logits.new_full((num_batches,), num_rows, dtype=dtype)
    index = call.indices[..., 0]
    counts = index != call.ignore_index
    weight = TargetTable.of_tensors(call.table, call.row_spread).weight
    return row_weights(counts, torch.where(counts, index, 0), weight, dtype).sum(-1)


def _op(name: str, of_reference: Any = _reference, **options: Any) -> LossOp:
    return LossOp(name, TreeLogLossArguments, 4, of_reference, _total_weight, **options)


register("tree_log_loss", {"reference": _reference})
register("dag_log_loss", {"reference": _dag_reference})
if native.load_error is None:
    _native = _op("tree_log_loss", takes_pixels=True, is_native=True)
    register("tree_log_loss", {"cpu": _native, "cuda": _native})
    _of_dags = _op("dag_log_loss", _dag_reference, is_native=True)
    register("dag_log_loss", {"cpu": _of_dags, "cuda": _of_dags})
if triton.load_error is None:
    from ..triton.rows import scale_in_place

    register("tree_log_loss", {"triton": _op("triton_tree_log_loss", scale=scale_in_place)})
    _of_dags = _op("triton_dag_log_loss", _dag_reference, scale=scale_in_place)
    register("dag_log_loss", {"triton": _of_dags})
