"""`path_log_loss`: log-loss at the nested intervals of each target's path.

With lse_i the log-sum-exp of the columns in interval i and lse_K that of the whole row,
`log P_i = lse_i - lse_K`, and the loss of a row is

    L = -sum_i w_i log P_i = sum_i w_i (lse_K - lse_i)

Intervals are nested, so column j is in all intervals from some r on; its ring r is what interval r
adds to the one inside it. exp(z_j - lse_i) is its share of interval i, so that

    dL/dz_j = sum_i w_i (exp(z_j - lse_K) - [i >= r] exp(z_j - lse_i))
            = A_r exp(z_j - lse_K) - B_r exp(z_j - lse_r)
    A_r     = sum_{i < r} w_i
    B_r     = sum_{i >= r} w_i (1 - P_i) exp(lse_r - lse_i)

because the terms i >= r are `w_i exp(z_j - lse_i) (P_i - 1)`. The kernels compute this; here
autograd derives it from the loss, and 1 - P_i is computed as the mass outside.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from ..path_table import PathTable
from ..rows import loss_dtype, reduce, row_weights
from ..target_errors import check_targets, check_targets_have_classes
from .log_sums import LogSum, add, log_one_plus_ratio, ratio

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
) -> Tensor:
    """Log-loss over nested intervals; see `hace_kernels.path_log_loss`."""
    z = logits.to(loss_dtype(logits.dtype))
    counts = target != ignore_index
    in_range = (target >= 0) & (target < table.num_targets)
    check_targets(target, counts & ~in_range, table.num_targets)
    row = torch.where(in_range, target, 0)
    start, stop, weight = _padded_entries(table, row, z.dtype)
    check_targets_have_classes(target, counts & (start == stop).any(1))

    row_weight = row_weights(counts, row, target_weight, z.dtype)
    # Rows that do not count may hold anything; their gradient must be 0, and not 0 times NaN.
    z = torch.where((row_weight != 0)[:, None], z, 0.0)
    if table.order is not None:
        z = z[:, table.order.long()]
    log_p = _interval_log_prob(z, start, stop, eps)
    # A row without a softmax (all -inf, a +inf, a NaN) is NaN even if its path has no entry.
    loss = 0.0 * z.logsumexp(1) - (weight * log_p).sum(1)
    if entropy:
        log_p = z.log_softmax(1)
        loss = loss + entropy * (log_p.exp() * torch.where(log_p > -torch.inf, log_p, 0.0)).sum(1)
    loss = torch.where(in_range & (start < stop).all(1), loss, torch.nan)
    loss = torch.where(row_weight != 0, row_weight * loss, 0.0)
    return reduce(loss, row_weight.sum(), reduction)


def _interval_log_prob(z: Tensor, start: Tensor, stop: Tensor, eps: float) -> Tensor:
    """`log(P + eps)` of nested intervals: z (B, C), start, stop (B, K) innermost first, to (B, K).

    Interval i is the union of the rings 0 .. i, where ring i is what interval i adds to the one
    inside it, and ring K is the columns outside of all. Sums of exponentials are `LogSum`s, so that
    neither differences between rings nor the size of the logits cost digits.
    """
    num_rings = start.shape[1] + 1
    position = torch.arange(z.shape[1], device=z.device)
    ring = torch.zeros(z.shape, dtype=torch.int64, device=z.device)
    for first, last in zip(start.unbind(1), stop.unbind(1), strict=True):
        ring = ring + ((position < first[:, None]) | (position >= last[:, None]))

    def per_ring(x: Tensor, elsewhere: float, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
        of_ring = (torch.where(ring == r, x, elsewhere) for r in range(num_rings))
        return torch.stack([reduce(x, 1) for x in of_ring], 1)

    lowest = torch.finfo(z.dtype).min  # the maximum of a ring of -inf logits, or of no logits
    ring_top = per_ring(z.detach(), lowest, torch.amax).clamp(min=lowest)
    ring_total = per_ring((z - ring_top.gather(1, ring)).exp(), 0.0, torch.sum)

    if num_rings == 1:
        return z.new_zeros(z.shape[0], 0)
    rings = [LogSum(*ring) for ring in zip(ring_top.unbind(1), ring_total.unbind(1), strict=True)]
    inside = list(accumulate(rings[:-1], add))
    outside = list(accumulate(rings[:0:-1], add))[::-1]
    if eps:
        p = [ratio(i, add(i, o)) for i, o in zip(inside, outside, strict=True)]
        return (torch.stack(p, 1) + eps).log()

    # -log P = log(1 + outside / inside), which is exact for P near 0 and near 1.
    log_p = [-log_one_plus_ratio(o, i) for i, o in zip(inside, outside, strict=True)]
    # An interval of -inf logits has log P = -inf; its gradient is spread evenly over its columns,
    # which is the gradient of their mean.
    dead = torch.stack([mass.sum == 0 for mass in inside], 1)
    mean = per_ring(z, 0.0, torch.sum).cumsum(1)[:, :-1] / (stop - start).clamp(min=1)
    row = add(inside[-1], outside[-1])
    log_total = row.max + row.sum.log()  # max is not differentiated, which saves rounding
    return torch.where(dead, mean - log_total[:, None], torch.stack(log_p, 1))


def _padded_entries(table: PathTable, row: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Each target's entries as (B, K), filled up with the interval of all classes of weight 0."""
    first, last = table.ptr[row], table.ptr[row + 1]
    index = first[:, None] + torch.arange(table.max_entries, device=row.device)
    real = index < last[:, None]
    if not len(table.weight):
        return torch.zeros_like(index), torch.zeros_like(index), index.to(dtype)
    index = torch.where(real, index, 0)
    start = torch.where(real, table.start[index], 0)
    stop = torch.where(real, table.stop[index], table.num_classes)
    weight = torch.where(real, table.weight[index], 0.0).to(dtype)
    return start, stop, weight
