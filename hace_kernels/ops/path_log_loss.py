"""`path_log_loss`: hard targets over nested intervals."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .. import native, reference, triton
from ..backends import resolve
from ..path_table import PathTable
from ..registry import register
from ..rows import REDUCTIONS, as_rows, num_rows, row_weights
from ..schemas import PathLogLossArguments
from ..transforms import is_differentiated
from ..widest import widened, widest_dtype
from .checks import check_devices, check_options, check_rows_or_pixels, for_kernel
from .loss import LossOp

__all__ = ["path_log_loss", "path_log_loss_rest"]


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

    `P_i` is the softmax mass of the columns in interval i of the target's path, and `w_i` is that
    interval's weight in the table. Hierarchy-Aware Cross-Entropy (arXiv 2605.06274, section 3) and
    related losses differ in their tables alone.

    Args:
        logits: (B, C), float16, bfloat16, float32 or float64, any strides; or (N, C, S), as images
            have their pixels, for B = N·S rows: those of `logits[0]` along S, then the next ones'.
        target: (B,) int64, indices of the table's T targets, or `ignore_index`.
        table: the paths, on the logits' device.
        target_weight: (T,) floating; multiplies each row's loss. If it or the table's weight
            requires a gradient, the reference computes the loss.
        ignore_index: rows with this target count for nothing.
        reduction: "none", "sum", or "mean", which divides by the sum of the rows' target weights.
        entropy: λ; adds `λ sum_c p_c log p_c` over all C columns to each row's loss (0 log 0 is 0).
        eps: added to each probability inside the logarithm.
        backend: "auto", or one of `hace_kernels.backends()`.

    Returns:
        The loss, float64 for float64 logits and float32 otherwise: a scalar, or (B,) with "none".

    Raises:
        IndexError: a target is out of range or has no class at or below it. This is raised on the
            CPU in eager mode; compiled code raises RuntimeError, and an accelerator gives NaN for
            the row.
        ValueError: shapes or options that do not fit.
        TypeError: logits that are not floating point.
        BackendError: the backend asked for cannot run here.
    """
    if not _fits(logits, target, table, target_weight):
        _refuse(logits, target, table, target_weight)
    if reduction not in REDUCTIONS or eps or entropy:
        check_options(reduction, eps, entropy)
    if is_differentiated(table.weight, target_weight):
        backend = "reference"
    return cast(
        Tensor,
        resolve("path_log_loss", backend, logits)(
            PathLogLossArguments(
                for_kernel(logits),
                target.contiguous(),
                *path_log_loss_rest(table, target_weight, entropy, ignore_index, reduction, eps),
            )
        ),
    )


def path_log_loss_rest(
    table: PathTable,
    target_weight: Tensor | None,
    entropy: float,
    ignore_index: int,
    reduction: str,
    eps: float,
) -> tuple[list[Tensor], int, Tensor | None, float, int, int, float]:
    """The fields of `PathLogLossArguments` after those that have an entry per row."""
    if target_weight is not None:
        target_weight = widened(target_weight).contiguous()
    number = REDUCTIONS.index(reduction)
    return table.tensors, table.max_entries, target_weight, entropy, ignore_index, number, eps


def _fits(logits: Tensor, target: Tensor, table: PathTable, target_weight: Tensor | None) -> bool:
    return (
        logits.dim() in (2, 3)
        and logits.shape[1] == table.num_classes
        and logits.is_floating_point()
        and target.dtype == torch.int64
        and target.shape == (num_rows(logits),)
        and target.device == table.device == logits.device
        and (target_weight is None or target_weight.shape == (table.num_targets,))
    )


def _refuse(logits: Tensor, target: Tensor, table: PathTable, target_weight: Tensor | None) -> None:
    check_rows_or_pixels("logits", logits, table.num_classes, "class of the path table")
    if target.dtype != torch.int64 or target.shape != (num_rows(logits),):
        raise ValueError(
            f"target must be ({num_rows(logits)},) int64, one index per row of logits; got "
            f"{tuple(target.shape)} {target.dtype}"
        )
    check_devices(logits, target=target.device, table=table.device)
    assert target_weight is not None
    raise ValueError(
        f"target_weight must be ({table.num_targets},), one weight per target of the path table; "
        f"got {tuple(target_weight.shape)}"
    )


def _reference(call: PathLogLossArguments) -> Tensor:
    """The reference, called with the op's arguments."""
    return reference.path_log_loss(
        as_rows(call.logits),
        call.target,
        PathTable.of_tensors(call.table, call.logits.shape[1], call.max_entries),
        target_weight=call.target_weight,
        ignore_index=call.ignore_index,
        reduction=REDUCTIONS[call.reduction],
        entropy=call.entropy,
        eps=call.eps,
    )


def _total_weight(call: PathLogLossArguments) -> Tensor:
    counts = call.target != call.ignore_index
    row = torch.where(counts, call.target, 0)
    return row_weights(counts, row, call.target_weight, widest_dtype(row.device)).sum(-1)


def _op(name: str, **options: Any) -> LossOp:
    return LossOp(name, PathLogLossArguments, 2, _reference, _total_weight, **options)


register("path_log_loss", {"reference": _reference})
if native.load_error is None:
    _native = _op("path_log_loss", takes_pixels=True, is_native=True)
    register("path_log_loss", {"cpu": _native, "cuda": _native})
if triton.load_error is None:
    from ..triton.rows import scale_in_place

    register("path_log_loss", {"triton": _op("triton_path_log_loss", scale=scale_in_place)})
