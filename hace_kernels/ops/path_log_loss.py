"""`path_log_loss`: hard targets over nested intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native, reference, triton
from ..backends import resolve
from ..path_table import PathTable
from ..schemas import PathLogLossArguments
from .checks import (
    REDUCTIONS,
    check_options,
    check_rows,
    for_kernel,
    gradient_in_forward,
)
from .fused_loss import FusedLoss

__all__ = ["path_log_loss"]


def path_log_loss(
    logits: Tensor,
    target: Tensor,
    table: PathTable,
    *,
    target_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    entropy: float = 0.0,
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
        entropy: λ; adds `λ sum_c p_c log p_c` over all C columns to each row's loss (0 log 0 is 0).
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
    _check(logits, target, table, target_weight)
    check_options(reduction, eps, entropy)
    chosen = resolve(backend, logits.device, logits.dtype)
    if chosen == "reference":
        return reference.path_log_loss(
            logits,
            target,
            table,
            target_weight=target_weight,
            ignore_index=ignore_index,
            reduction=reduction,
            entropy=entropy,
            eps=eps,
        )
    fused = _fused_triton if chosen == "triton" else _fused
    return fused(
        PathLogLossArguments(
            logits=for_kernel(logits),
            target=target.contiguous(),
            table=table.tensors,
            max_entries=table.max_entries,
            target_weight=None if target_weight is None else target_weight.double().contiguous(),
            entropy=entropy,
            ignore_index=ignore_index,
            reduction=REDUCTIONS.index(reduction),
            eps=eps,
        ),
        gradient_in_forward(logits, reduction),
    )


def _check(
    logits: Tensor,
    target: Tensor,
    table: PathTable,
    target_weight: Tensor | None,
) -> None:
    check_rows("logits", logits, table.num_classes, "class of the path table")
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


def _reference(call: PathLogLossArguments) -> Tensor:
    """The reference from the op's arguments."""
    return reference.path_log_loss(
        call.logits,
        call.target,
        PathTable.of_tensors(call.table, call.logits.shape[1], call.max_entries),
        target_weight=call.target_weight,
        ignore_index=call.ignore_index,
        reduction=REDUCTIONS[call.reduction],
        entropy=call.entropy,
        eps=call.eps,
    )


if native.load_error is None:
    _fused = FusedLoss("path_log_loss", PathLogLossArguments, _reference)
if triton.load_error is None:
    from ..triton.path_log_loss import scale_in_place

    _fused_triton = FusedLoss(
        "triton_path_log_loss", PathLogLossArguments, _reference, scale_in_place
    )
