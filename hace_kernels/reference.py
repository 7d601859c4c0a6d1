"""The ops in plain PyTorch: any device, any floating dtype, gradients by autograd.

This file is the specification that the kernels are held to. It favours being read over being fast,
but stays exact in log space: a sum of exponentials is always taken relative to its own maximum.

Notation: `P_v` is the softmax mass of the classes at or below node v; a path a_0 .. a_D leads from
a target to its root and gives each node a weight w_i. The loss of one row is
`L = -sum_i w_i log P_{a_i}` (Chan, D'Ascenzo, Cultrera di Montesano, arXiv 2605.06274, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .path_table import PathTable

__all__ = ["path_log_loss"]


def path_log_loss(
    logits: Tensor,
    target: Tensor,
    table: PathTable,
    *,
    target_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    eps: float = 0.0,
) -> Tensor:
    """Log-loss over the nested intervals of each target's path; see `hace_kernels.path_log_loss`."""
    z = logits.to(loss_dtype(logits.dtype))
    counts = target != ignore_index
    in_range = (target >= 0) & (target < table.num_targets)
    check_targets(target, counts & ~in_range, table.num_targets)
    row = torch.where(in_range, target, 0)
    start, stop, weight = _padded_entries(table, row, z.dtype)
    check_targets_have_classes(target, counts & (start == stop).any(1))

    if table.order is not None:
        z = z[:, table.order.long()]
    log_p = _interval_log_prob(z, start, stop)
    if eps:
        log_p = (log_p.exp() + eps).log()
    loss = -(weight * log_p).sum(1)
    loss = torch.where(in_range & (start < stop).all(1), loss, torch.nan)
    return reduce(loss, counts, row, target_weight, reduction)


def _interval_log_prob(z: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """`log P` of nested intervals: z (B, C), start and stop (B, K) innermost first, to (B, K).

    Interval i is the union of the rings 0 .. i, ring i holding what interval i adds to the one
    inside it, and ring K the columns outside them all.
    """
    rows, num_classes = z.shape
    num_rings = start.shape[1] + 1
    position = torch.arange(num_classes, device=z.device)
    ring = torch.zeros(z.shape, dtype=torch.int64, device=z.device)
    for first, last in zip(start.unbind(1), stop.unbind(1), strict=True):
        ring += (position < first[:, None]) | (position >= last[:, None])

    # Relative to the row's maximum an lse of 1e4 keeps its fraction; a row of -inf becomes NaN.
    z = z - z.detach().amax(1, keepdim=True) if num_classes else z
    per_ring = z.new_zeros(rows, num_rings)
    top = torch.full_like(per_ring, -torch.inf).scatter_reduce(1, ring, z.detach(), "amax")
    shift = torch.where(top == -torch.inf, 0.0, top)
    total = per_ring.scatter_add(1, ring, torch.exp(z - shift.gather(1, ring)))
    alive = total != 0
    ring_lse = torch.where(alive, shift + torch.where(alive, total, 1.0).log(), -torch.inf)

    lse = [ring_lse[:, 0]]
    for i in range(1, num_rings):
        lse.append(torch.logaddexp(lse[-1], ring_lse[:, i]))
    inner = torch.stack(lse, 1)

    # An interval of -inf logits has log P = -inf; its gradient is spread evenly over its columns,
    # which is the gradient of their mean.
    count = per_ring.scatter_add(1, ring, torch.ones_like(z)).cumsum(1)
    mean = per_ring.scatter_add(1, ring, z).cumsum(1) / count.clamp(min=1)
    inner = torch.where(inner == -torch.inf, mean, inner)
    return inner[:, :-1] - lse[-1][:, None]


def _padded_entries(table: PathTable, row: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Each target's entries as (B, K); past its end, the interval of all classes with weight 0."""
    first, last = table.ptr[row], table.ptr[row + 1]
    index = first[:, None] + torch.arange(table.max_entries, device=row.device)
    real = index < last[:, None]
    if not len(table.weight):
        return tuple(torch.zeros_like(index) for _ in range(2)) + (index.to(dtype),)
    index = torch.where(real, index, 0)
    start = torch.where(real, table.start[index], 0)
    stop = torch.where(real, table.stop[index], table.num_classes)
    weight = torch.where(real, table.weight[index], 0.0).to(dtype)
    return start, stop, weight


def reduce(
    loss: Tensor, counts: Tensor, row: Tensor, target_weight: Tensor | None, reduction: str
) -> Tensor:
    """Rows that count, times their target's weight; `mean` divides by the sum of those weights."""
    weight = counts.to(loss.dtype)
    if target_weight is not None:
        weight = torch.where(counts, target_weight.to(loss.dtype)[row], 0.0)
    loss = torch.where(weight != 0, weight * loss, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / weight.sum()


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays; every narrower dtype is worked on, and its loss given, in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_targets(target: Tensor, bad: Tensor, num_targets: int) -> None:
    """Raises IndexError for the first bad target on a CPU; an accelerator gives NaN unasked."""
    if torch.compiler.is_compiling() or target.device.type != "cpu" or not bad.any():
        return
    row = int(bad.nonzero()[0, 0])
    raise IndexError(out_of_range(int(target[row]), row, num_targets))


def out_of_range(value: int, row: int, num_targets: int) -> str:
    return f"target {value} of row {row} is out of range: it must be in [0, {num_targets})"


def check_targets_have_classes(target: Tensor, bad: Tensor) -> None:
    if torch.compiler.is_compiling() or target.device.type != "cpu" or not bad.any():
        return
    row = int(bad.nonzero()[0, 0])
    raise IndexError(
        f"target {int(target[row])} of row {row} has no class at or below it, so its probability "
        "is 0 whatever the logits"
    )
