"""The ops in plain PyTorch: any device, any floating dtype, gradients by autograd.

This file is the specification that the kernels are held to. It favours being read over being fast,
but stays exact in log space: a sum of exponentials is always taken relative to its own maximum.

Notation: `P_v` is the softmax mass of the classes at or below node v; a path a_0 .. a_D leads from
a target to its root and gives each node a weight w_i. The loss of one row is
`L = -sum_i w_i log P_{a_i}` (Chan, D'Ascenzo, Cultrera di Montesano, arXiv 2605.06274, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from .path_table import PathTable
from .tree_table import TreeTable

__all__ = ["path_log_loss", "tree_log_loss", "tree_log_prob"]


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
    """Log-loss over nested intervals; see `hace_kernels.path_log_loss`."""
    z = logits.to(loss_dtype(logits.dtype))
    counts = target != ignore_index
    in_range = (target >= 0) & (target < table.num_targets)
    check_targets(target, counts & ~in_range, table.num_targets)
    row = torch.where(in_range, target, 0)
    start, stop, weight = _padded_entries(table, row, z.dtype)
    check_targets_have_classes(target, counts & (start == stop).any(1))

    if table.order is not None:
        z = z[:, table.order.long()]
    log_p = _interval_log_prob(z, start, stop, eps)
    # A row without a softmax (all -inf, a +inf, a NaN) is NaN even where its path has no entry.
    loss = 0.0 * z.logsumexp(1) - (weight * log_p).sum(1)
    loss = torch.where(in_range & (start < stop).all(1), loss, torch.nan)
    row_weight = row_weights(counts, row, target_weight, loss.dtype)
    loss = torch.where(row_weight != 0, row_weight * loss, 0.0)
    return reduce(loss, row_weight.sum(), reduction)


def _interval_log_prob(z: Tensor, start: Tensor, stop: Tensor, eps: float) -> Tensor:
    """`log(P + eps)` of nested intervals: z (B, C), start, stop (B, K) innermost first, to (B, K).

    Interval i is the union of the rings 0 .. i, ring i holding what interval i adds to the one
    inside it, and ring K the columns outside them all. A sum of exponentials is kept as a pair
    (top, total) that means `exp(top) * total`, so that neither gaps between rings nor the size of
    the logits cost digits.
    """
    num_rings = start.shape[1] + 1
    position = torch.arange(z.shape[1], device=z.device)
    ring = torch.zeros(z.shape, dtype=torch.int64, device=z.device)
    for first, last in zip(start.unbind(1), stop.unbind(1), strict=True):
        ring += (position < first[:, None]) | (position >= last[:, None])

    def per_ring(x: Tensor, elsewhere: float, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
        of_ring = (torch.where(ring == r, x, elsewhere) for r in range(num_rings))
        return torch.stack([reduce(x, 1) for x in of_ring], 1)

    lowest = torch.finfo(z.dtype).min  # the top of a ring of -inf logits, or of none
    ring_top = per_ring(z.detach(), lowest, torch.amax).clamp(min=lowest)
    ring_total = per_ring((z - ring_top.gather(1, ring)).exp(), 0.0, torch.sum)

    if num_rings == 1:
        return z.new_zeros(len(z), 0)
    rings = [_Mass(*ring) for ring in zip(ring_top.unbind(1), ring_total.unbind(1), strict=True)]
    inside = list(accumulate(rings[:-1], _sum))
    outside = list(accumulate(rings[:0:-1], _sum))[::-1]
    if eps:
        p = [_ratio(i, _sum(i, o)) for i, o in zip(inside, outside, strict=True)]
        return (torch.stack(p, 1) + eps).log()

    # -log P = log(1 + outside / inside), which is exact for P near 0 and near 1.
    log_p = [-_log_one_plus_ratio(o, i) for i, o in zip(inside, outside, strict=True)]
    # An interval of -inf logits has log P = -inf; its gradient is spread evenly over its columns,
    # which is the gradient of their mean.
    dead = torch.stack([mass.total == 0 for mass in inside], 1)
    mean = per_ring(z, 0.0, torch.sum).cumsum(1)[:, :-1] / (stop - start).clamp(min=1)
    return torch.where(dead, mean - z.logsumexp(1, keepdim=True), torch.stack(log_p, 1))


class _Mass(NamedTuple):
    """Sums of exponentials, `exp(top) * total`; total 0 stands for none."""

    top: Tensor
    total: Tensor


def _sum(a: _Mass, b: _Mass) -> _Mass:
    top = torch.maximum(a.top, b.top)
    return _Mass(top, a.total * (a.top - top).exp() + b.total * (b.top - top).exp())


def _log_one_plus_ratio(a: _Mass, b: _Mass) -> Tensor:
    """`log(1 + a / b)`, 0 where either is none."""
    some = (a.total != 0) & (b.total != 0)
    log_totals = torch.where(some, a.total, 1.0).log() - torch.where(some, b.total, 1.0).log()
    log_ratio = torch.where(some, a.top - b.top, 0.0) + log_totals
    return torch.where(some, torch.nn.functional.softplus(log_ratio, threshold=50), 0.0)


def _log_prob(mass: _Mass, everything: _Mass, mean: Tensor) -> Tensor:
    """`log P`. Where it is -inf, its gradient is spread evenly over its classes, `mean` of whose
    logits, which is -inf too, has that gradient."""
    dead = mass.total == 0
    log_total = torch.where(dead, 1.0, mass.total).log()
    alive = (mass.top - everything.top) + (log_total - everything.total.log())
    return torch.where(dead, mean - (everything.top + everything.total.log()), alive)


def _ratio(a: _Mass, b: _Mass) -> Tensor:
    return a.total / b.total * (a.top - b.top).exp()


def _padded_entries(table: PathTable, row: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Each target's entries as (B, K); past its end, the interval of all classes with weight 0."""
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


def tree_log_prob(logits: Tensor, tree: TreeTable) -> Tensor:
    """`log P_v` of every node: logits (B, C) to (B, N) by node id.

    Nodes whose classes all have a logit of -inf, or that have no class, get -inf and pass no
    gradient on.
    """
    log_p = _tree_log_prob(logits.to(loss_dtype(logits.dtype)), tree, 0.0)
    log_p = torch.where(log_p == -torch.inf, -torch.inf, log_p)
    return log_p[:, tree.place]


def tree_log_loss(
    logits: Tensor, target: Tensor, tree: TreeTable, keep: Tensor, *, eps: float = 0.0
) -> Tensor:
    """Log-loss at every node for target mass that goes up the tree: `L = -sum_v q_v log P_v`.

    Each node keeps a share of the mass that reaches it and hands the rest to its parent:
    `q_v = keep_v m_v` with `m_v = t_v + sum_{children c} (1 - keep_c) m_c`. HACE with dilution d
    has keep = d below the roots and 1 at them.

    Args:
        logits: (B, C) floating.
        target: (B, N) floating, by node id: the mass t_v put on each node.
        tree: the forest, on the logits' device.
        keep: (N,) floating, by node id.
        eps: added to each probability inside the logarithm.

    Returns:
        (B,) losses, float64 for float64 logits and float32 otherwise. 0 log 0 is 0.
    """
    z = logits.to(loss_dtype(logits.dtype))
    q = _kept_mass(target.to(z.dtype)[:, tree.node], keep.to(z)[tree.node], tree)
    log_p = _tree_log_prob(z, tree, eps)
    return -torch.where(q != 0, q * log_p, 0.0).sum(1)


def _kept_mass(mass: Tensor, keep: Tensor, tree: TreeTable) -> Tensor:
    """q of `tree_log_loss`, by place, from the mass put on each place (B, N)."""
    levels: list[Tensor] = []
    passed: Tensor | None = None
    for first, last in _levels_upwards(tree):
        reached = mass[:, first:last]
        if passed is not None:
            reached = reached + _sum_to_parents(passed, tree, first, last)
        levels.append(keep[first:last] * reached)
        passed = (1 - keep[first:last]) * reached
    return torch.cat(levels[::-1], 1)


def _tree_log_prob(z: Tensor, tree: TreeTable, eps: float) -> Tensor:
    """`log(P_v + eps)` by place, (B, N)."""
    lowest = torch.finfo(z.dtype).min
    own_top = torch.full((len(z), tree.num_nodes), lowest, dtype=z.dtype, device=z.device)
    own_top[:, tree.class_place] = z.detach().clamp(min=lowest)
    own_total = torch.zeros_like(own_top).index_copy(
        1, tree.class_place, (z - own_top[:, tree.class_place]).exp()
    )
    own_sum = torch.zeros_like(own_top).index_copy(1, tree.class_place, z)
    own_count = torch.zeros_like(own_top[:1])
    own_count[:, tree.class_place] = 1

    levels: list[tuple[Tensor, ...]] = []  # top, total, sum and number of the classes' logits
    for first, last in _levels_upwards(tree):
        here = slice(first, last)
        top, total = own_top[:, here], own_total[:, here]
        logit_sum, count = own_sum[:, here], own_count[:, here]
        if levels:
            child_top, child_total, child_sum, child_count = levels[-1]
            parent = _parents_in_level(child_top, tree, first, last)
            above = parent.expand(len(z), -1)
            joint = top.scatter_reduce(1, above, child_top, "amax")
            risen = child_total * (child_top - joint[:, parent]).exp()
            total = total * (top - joint).exp() + _sum_to_parents(risen, tree, first, last)
            top = joint
            logit_sum = logit_sum + _sum_to_parents(child_sum, tree, first, last)
            count = count + _sum_to_parents(child_count, tree, first, last)
        levels.append((top, total, logit_sum, count))

    top, total, logit_sum, count = (
        torch.cat(parts, 1) for parts in zip(*levels[::-1], strict=True)
    )
    row_top = z.detach().amax(1, keepdim=True).clamp(min=lowest)
    everything = _Mass(row_top, (z - row_top).exp().sum(1, keepdim=True))
    if eps:
        return (_ratio(_Mass(top, total), everything) + eps).log()
    mean = torch.where(count > 0, logit_sum / count.clamp(min=1), -torch.inf)
    return _log_prob(_Mass(top, total), everything, mean)


def _sum_to_parents(child: Tensor, tree: TreeTable, first: int, last: int) -> Tensor:
    """Sums of the children's values for the nodes at places first … last."""
    parent = _parents_in_level(child, tree, first, last)
    return child.new_zeros(len(child), last - first).index_add(1, parent, child)


def _parents_in_level(child: Tensor, tree: TreeTable, first: int, last: int) -> Tensor:
    """For the children of places first … last, which follow them, their parent's index in there."""
    return tree.parent[last : last + child.shape[1]] - first


def _levels_upwards(tree: TreeTable) -> list[tuple[int, int]]:
    return list(zip(tree.level_ptr[:-1], tree.level_ptr[1:], strict=True))[::-1]


def row_weights(
    counts: Tensor, row: Tensor, target_weight: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """What each row counts for: its target's weight, or 0 where it does not count."""
    if target_weight is None:
        return counts.to(dtype)
    return torch.where(counts, target_weight.to(dtype)[row], 0.0)


def reduce(loss: Tensor, total_weight: Tensor | int, reduction: str) -> Tensor:
    """Weighted rows to what the caller asked for; `mean` divides by the sum of the weights."""
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / total_weight


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
    raise IndexError(no_class(int(target[row]), row))


def check_mass_has_classes(mass: Tensor, empty: Tensor) -> None:
    """The same for mass (B, T) on targets, of which `empty` (T) have no class."""
    if torch.compiler.is_compiling() or mass.device.type != "cpu" or not empty.any():
        return
    row, target = torch.nonzero((mass != 0) & empty, as_tuple=True)
    if len(row):
        raise IndexError(no_class(int(target[0]), int(row[0])))


def no_class(value: int, row: int) -> str:
    return (
        f"target {value} of row {row} has no class at or below it, so its probability is 0 "
        "whatever the logits"
    )
