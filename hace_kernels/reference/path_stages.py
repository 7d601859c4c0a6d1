"""The stages of `path_log_loss` on tiles of columns: measure, resolve, write.

A tile is the logits of class positions first .. first + T of every row. Up to rounding, the rings
(`Rings`) do not depend on the tiles, so that the logits never have to be in memory all at once:

    measure   tile -> (max, sum of exponentials) of every ring, merged into the rings so far
    resolve   rings -> each row's loss, and the formula of its gradient in each ring
    write     tile -> gradient, exp(z - shift) * factor + offset

docs/design.md derives the formulas.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from ..row_paths import Rings, RowPaths
from ..rows import loss_dtype
from ..widest import widened, widest_dtype
from .log_sums import LogSum, add, exp_of_difference, log_one_plus_ratio, ratio

__all__ = ["Resolved", "RingGradient", "path_measure", "path_resolve", "path_write"]


class RingGradient(NamedTuple):
    """The formula of a row's gradient in each ring: `exp(z - shift) * f + offset`.

    f is `factor + slope * (z - shift - middle)`; slope and middle are only needed with an entropy.

    Attributes:
        shift: (B, K+1), the ring's largest logit (0 where that is -inf), in the working type.
        factor, offset: float64 (B, K+1).
        slope, middle: float64 (B, K+1), or None.
    """

    shift: Tensor
    factor: Tensor
    offset: Tensor
    slope: Tensor | None
    middle: Tensor | None

    def part(self, rows: slice) -> RingGradient:
        """The gradient of some rows."""
        slope = None if self.slope is None else self.slope[rows]
        middle = None if self.middle is None else self.middle[rows]
        return RingGradient(self.shift[rows], self.factor[rows], self.offset[rows], slope, middle)

    def is_nothing(self) -> bool:
        """Whether it is known to be 0 everywhere; a GPU is not waited for."""
        if self.factor.device.type != "cpu":
            return False
        parts = (self.factor, self.offset, self.slope)
        return not any(part is not None and part.any() for part in parts)

    def times(self, row_factor: Tensor) -> RingGradient:
        """The gradient with each row multiplied by a factor (B); times 0 gives 0 even for NaN."""
        by_row = widened(row_factor)[:, None]

        def scaled(x: Tensor) -> Tensor:
            return torch.where(by_row == 0, 0.0, by_row * x)

        return self._replace(
            factor=scaled(self.factor),
            offset=scaled(self.offset),
            slope=None if self.slope is None else scaled(self.slope),
        )


class Resolved(NamedTuple):
    """What follows from the rings of the rows.

    Attributes:
        loss: float64 (B), unweighted.
        log_prob: float64 (B), log P of the innermost interval (0 for a path without intervals).
        gradient: the gradient of the loss.
    """

    loss: Tensor
    log_prob: Tensor
    gradient: RingGradient


def path_measure(logits: Tensor, paths: RowPaths, first: int, rings: Rings) -> None:
    """Merges a tile (B, T) of class positions first .. first + T into the rings, in place."""
    if not logits.shape[1]:
        return
    z = logits.to(loss_dtype(logits.dtype))
    ring = _ring_of(paths, first, z.shape[1])
    for r in range(rings.max.shape[1]):
        here = ring == r
        top = torch.where(here & ~z.isnan(), z, -torch.inf).amax(1)
        gap = z - torch.where(top == -torch.inf, 0.0, top)[:, None]
        exps = torch.where(here, gap.exp(), 0.0)
        moment = torch.where(exps == 0, 0.0, exps * gap).sum(1, dtype=widest_dtype(z.device))
        _merge(rings, r, top, exps.sum(1, dtype=widest_dtype(z.device)), moment)


def _merge(rings: Rings, r: int, top: Tensor, total: Tensor, moment: Tensor) -> None:
    lowest = torch.finfo(top.dtype).min
    highest = torch.maximum(rings.max[:, r], top)
    merged_total, merged_moment = torch.zeros_like(total), torch.zeros_like(total)
    old = (rings.max[:, r], rings.sum[:, r], moment if rings.moment is None else rings.moment[:, r])
    for each_top, each_total, each_moment in (old, (top, total, moment)):
        gap = widened(each_top.clamp(min=lowest)) - widened(highest.clamp(min=lowest))
        scale = gap.exp()
        merged_total += scale * each_total
        merged_moment += torch.where(scale == 0, 0.0, scale * (each_moment + gap * each_total))
    rings.max[:, r] = highest
    rings.sum[:, r] = merged_total
    if rings.moment is not None:
        rings.moment[:, r] = merged_moment


def path_resolve(
    rings: Rings, paths: RowPaths, *, eps: float = 0.0, entropy: float = 0.0
) -> Resolved:
    """The rows' losses and gradients; `entropy` needs the rings' moments."""
    tops = widened(rings.max).clamp(min=torch.finfo(rings.max.dtype).min)
    mass = [LogSum(*ring) for ring in zip(tops.unbind(1), rings.sum.unbind(1), strict=True)]
    each_inside = list(accumulate(mass, add))
    inside = LogSum(*(torch.stack(x, 1) for x in zip(*each_inside, strict=True)))
    total = LogSum(inside.max[:, -1:], inside.sum[:, -1:])
    outer = LogSum(tops[:, 1:], rings.sum[:, 1:])  # ring r + 1, which surrounds interval r
    interval = LogSum(inside.max[:, :-1], inside.sum[:, :-1])

    dead = interval.sum == 0
    steps = torch.where(dead, 0.0, log_one_plus_ratio(outer, interval))
    resolve = _resolve_with_eps if eps else _resolve_exactly
    loss, a, b, offset = resolve(paths, interval, outer, total, dead, steps, eps)
    log_prob = -steps.sum(1)
    if steps.shape[1]:
        log_prob = torch.where(dead[:, 0], -torch.inf, log_prob)

    # exp(z - shift) is multiplied by these to be relative to the row's and to the interval's sum.
    in_row = _over(tops, total)
    factor = a * in_row - torch.where(b == 0, 0.0, b * _over(tops, inside))
    nothing = rings.sum == 0
    factor = torch.where(nothing, 0.0, factor)
    slope = middle = None
    if entropy:
        assert rings.moment is not None
        gap = tops - total.max
        scale = gap.exp()
        moment = torch.where(scale == 0, 0.0, scale * (rings.moment + gap * rings.sum)).sum(1)
        negative_entropy = moment / total.sum[:, 0] - total.sum[:, 0].log()
        loss = loss + entropy * negative_entropy
        slope = torch.where(nothing, 0.0, entropy * in_row)
        middle = -gap + total.sum.log() + negative_entropy[:, None]
    is_softmax = total.sum > 0  # False where all logits are -inf, or one is NaN
    loss = torch.where(is_softmax[:, 0], loss, torch.nan)
    log_prob = torch.where(is_softmax[:, 0], log_prob, torch.nan)
    factor = torch.where(is_softmax, factor, torch.nan)
    shift = torch.where(rings.max == -torch.inf, 0.0, rings.max)
    return Resolved(loss, log_prob, RingGradient(shift, factor, offset, slope, middle))


def _over(top: Tensor, b: LogSum) -> Tensor:
    """exp(top) / b, or 0 where the sum b is empty."""
    return torch.where(b.sum == 0, 0.0, exp_of_difference(top, b.max) / b.sum)


def _resolve_exactly(
    paths: RowPaths,
    interval: LogSum,
    outer: LogSum,
    total: LogSum,
    dead: Tensor,
    steps: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    weight = paths.weight
    alive_weight = torch.where(dead, 0.0, weight)
    loss = (alive_weight.cumsum(1) * steps).sum(1)
    lost = torch.where(dead & (weight != 0), weight * torch.inf, 0.0)
    loss = loss + lost.sum(1)
    nothing = weight.new_zeros(len(weight), 1)
    a = torch.cat([nothing, weight.cumsum(1)], 1)

    # An interval without mass: its weight is spread evenly over its columns.
    size = (paths.stop - paths.start).clamp(min=1)
    spread = torch.where(dead, -weight / size, 0.0)
    offset = torch.cat([spread.flip(1).cumsum(1).flip(1), nothing], 1)

    added = torch.where(dead, 0.0, outer.sum / interval.sum) * (outer.max - interval.max).exp()
    added = torch.where((outer.sum == 0) | dead, 0.0, added)
    kept = 1 / (1 + added)
    gone = torch.where(added < torch.inf, added * kept, 1.0)
    outside, b, all_b = nothing[:, 0], nothing[:, 0], [nothing[:, 0]]
    for r in reversed(range(weight.shape[1])):
        outside = gone[:, r] + kept[:, r] * outside
        b = weight[:, r] * outside + kept[:, r] * b
        all_b.append(torch.where(dead[:, r], 0.0, b))
    return loss, a, torch.stack(all_b[::-1], 1), offset


def _resolve_with_eps(
    paths: RowPaths,
    interval: LogSum,
    outer: LogSum,
    total: LogSum,
    dead: Tensor,
    steps: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    weight = paths.weight
    p, ring_p = ratio(interval, total), ratio(outer, total)
    outside = ring_p.flip(1).cumsum(1).flip(1)  # 1 - P
    loss = -(weight * (p + eps).log()).sum(1)
    nothing = weight.new_zeros(len(weight), 1)
    pulled = torch.cat([nothing, (weight * p / (p + eps)).cumsum(1)], 1)
    pushed = torch.cat([(weight / (p + eps) * outside).flip(1).cumsum(1).flip(1), nothing], 1)
    return loss, pulled - pushed, torch.zeros_like(pulled), torch.zeros_like(pulled)


def path_write(
    logits: Tensor, paths: RowPaths, first: int, gradient: RingGradient, grad: Tensor
) -> None:
    """Writes the gradient of a tile into `grad` (B, T), which may be the tile itself."""
    dtype = loss_dtype(logits.dtype)
    ring = _ring_of(paths, first, logits.shape[1])
    # If the logits were computed again for the gradient, the largest may have been rounded up.
    gap = (logits.to(dtype) - gradient.shift.gather(1, ring)).clamp(max=0)
    exps = gap.exp()
    factor = gradient.factor.to(dtype).gather(1, ring)
    result = torch.where(factor == 0, 0.0, exps * factor)
    if gradient.slope is not None and gradient.middle is not None:
        slope = gradient.slope.to(dtype).gather(1, ring)
        tilt = slope * exps * (gap - gradient.middle.to(dtype).gather(1, ring))
        result = result + torch.where((slope == 0) | (exps == 0), 0.0, tilt)
    grad.copy_(result + gradient.offset.to(dtype).gather(1, ring))


def _ring_of(paths: RowPaths, first: int, width: int) -> Tensor:
    """The ring that each position first .. first + width is in, int64 (B, width)."""
    position = torch.arange(first, first + width, device=paths.start.device)
    ring = torch.zeros(len(paths.start), width, dtype=torch.int64, device=paths.start.device)
    for start, stop in zip(paths.start.unbind(1), paths.stop.unbind(1), strict=True):
        ring += (position < start[:, None]) | (position >= stop[:, None])
    return ring
