"""`linear_path_log_loss`: hard targets over nested intervals, from a linear layer's input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..ops.checks import check_options
from ..ops.path_log_loss import path_log_loss
from ..ops.path_stages import select_paths
from ..path_table import PathTable
from ..reference.rows import loss_dtype, reduce, row_weights
from .columns import Head, linear_row_losses

__all__ = ["LOGIT_BYTES", "linear_path_log_loss", "product_dtype"]

#: Logits up to this size are made whole, which takes three matrix products instead of four.
LOGIT_BYTES = 256 << 20


def linear_path_log_loss(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    table: PathTable,
    *,
    bias: Tensor | None = None,
    target_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    entropy: float = 0.0,
    eps: float = 0.0,
    logit_bytes: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """`path_log_loss(F.linear(input, weight, bias), …)` whose logits need not be whole.

    Logits of up to `logit_bytes` are made whole. Larger ones are made in tiles of classes, twice:
    to be measured, and for the gradient. Under autocast the layer's tiles are cast one by one.

    Args:
        input: (B, F), floating.
        weight: (C, F); row `table.order[i]` is the class at position i.
        target, table, target_weight, ignore_index, reduction, entropy, eps, backend: as in
            `path_log_loss`.
        bias: (C), or None.
        logit_bytes: a budget for the logits, in bytes; None: 256 MiB. 0 always takes tiles.

    Returns:
        The loss, float64 where the products are, float32 otherwise: a scalar, or (B,) with "none".

    Raises:
        IndexError, ValueError, TypeError, BackendError: as `path_log_loss`.
        RuntimeError: at a second derivative through tiles, which there is none of.
    """
    check_linear(input, weight, bias, table.num_classes)
    check_options(reduction, eps, entropy)
    dtype = product_dtype(input, weight)
    budget = LOGIT_BYTES if logit_bytes is None else logit_bytes
    itemsize = torch.empty(0, dtype=dtype).element_size()
    if len(input) * len(weight) * itemsize <= budget:
        return path_log_loss(
            linear(input, weight, bias),
            target,
            table,
            target_weight=target_weight,
            ignore_index=ignore_index,
            reduction=reduction,
            entropy=entropy,
            eps=eps,
            backend=backend,
        )
    counts = target != ignore_index
    paths, is_right = select_paths(table, target, counts)
    row = torch.where(counts & is_right, target, 0)
    row_weight = row_weights(counts, row, target_weight, torch.float64)
    head = Head(paths, paths, table.order, eps, entropy, dtype, backend)
    losses, _ = linear_row_losses(input, weight, bias, head)
    losses = torch.where(is_right, losses, torch.nan)
    losses = torch.where(row_weight != 0, row_weight * losses, 0.0)
    return reduce(losses, row_weight.sum(), reduction).to(loss_dtype(dtype))


def product_dtype(input: Tensor, weight: Tensor) -> torch.dtype:
    """Of `F.linear(input, weight)`: autocast's, where it is on and the input is not float64."""
    device = input.device.type
    if torch.is_autocast_enabled(device) and input.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return input.dtype


def check_linear(input: Tensor, weight: Tensor, bias: Tensor | None, num_classes: int) -> None:
    """Raises unless all are floating and (B, F), (C, F) and (C), of one dtype or in autocast."""
    for name, x in (("input", input), ("weight", weight), ("bias", bias)):
        if x is not None and not x.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if input.dim() != 2:
        raise ValueError(f"input must be (B, F), got {tuple(input.shape)}")
    if weight.shape != (num_classes, input.shape[1]):
        raise ValueError(
            f"weight must be ({num_classes}, {input.shape[1]}), one row for each class and one "
            f"column for each feature of the input; got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != (num_classes,):
        raise ValueError(
            f"bias must be ({num_classes},), one entry for each class; got {tuple(bias.shape)}"
        )
    same = weight.dtype == input.dtype and (bias is None or bias.dtype == input.dtype)
    if not same and not torch.is_autocast_enabled(input.device.type):
        raise TypeError(
            f"input, weight and bias must have one dtype, got {input.dtype}, {weight.dtype}"
            + ("" if bias is None else f" and {bias.dtype}")
            + "; cast one of them, or use torch.autocast"
        )
