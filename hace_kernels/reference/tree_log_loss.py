"""`tree_log_loss`: log-loss at every node, for targets that are spread over the tree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..closure_table import ClosureTable
from ..rows import loss_dtype, reduce
from ..target_errors import (
    check_mass_has_classes,
    check_targets,
    check_targets_have_classes,
)
from ..target_table import SoftLabels, TargetTable
from ..tree_table import TreeTable
from ..widest import widened, widest_dtype
from .dag import dag_kept_mass, dag_log_prob
from .tree_log_prob import log_prob_at_places
from .tree_sum import levels_up, sum_below

__all__ = ["tree_log_loss"]


def tree_log_loss(
    logits: Tensor,
    target: Tensor | tuple[Tensor, Tensor],
    tree: TreeTable | ClosureTable,
    table: TargetTable,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    eps: float = 0.0,
) -> Tensor:
    """Log-loss over a whole tree; see `hace_kernels.tree_log_loss`."""
    z = logits.to(loss_dtype(logits.dtype))
    counts = torch.ones(z.shape[0], dtype=torch.bool, device=z.device)
    total_weight: Tensor | int = z.shape[0]
    if isinstance(target, tuple):
        counts = (target[0] != ignore_index).any(1)
        mass = _mass_of_indices(*target, tree, table, ignore_index)
    elif target.is_floating_point():
        mass = _mass_of_probabilities(target.to(z.dtype), tree, table)
    else:
        counts = target != ignore_index
        one = torch.ones_like(target, dtype=widest_dtype(target.device))
        mass = _mass_of_indices(target[:, None], one[:, None], tree, table, ignore_index)
        total_weight = counts.sum()
        if table.weight is not None:
            row = torch.where(counts, target, 0).clamp(0, table.num_targets - 1)
            total_weight = torch.where(counts, table.weight.to(z.dtype)[row], 0.0).sum()
    # Rows that do not count may hold anything; their gradient must be 0, and not 0 times NaN.
    z = torch.where(counts[:, None], z, 0.0)

    q, log_p = _kept(mass, table, tree, z.dtype), _log_prob(z, tree, eps)
    # 0 log 0 is 0; where log P is finite, the target has a gradient even at q = 0.
    loss = -(q * torch.where((q == 0) & (log_p == -torch.inf), 0.0, log_p)).sum(1)
    # A row without a softmax (all −inf, a +inf, a NaN) is NaN even if it has no mass.
    loss = torch.where(counts, loss + 0.0 * z.logsumexp(1), 0.0)
    return reduce(loss, total_weight, reduction)


class _Mass(NamedTuple):
    """Mass before it rises, `everywhere · unit + own`.

    Attributes:
        everywhere: (B, 1), what every class gets.
        own: (B, P), what targets put on places besides; negative where smoothing leaves them out.
    """

    everywhere: Tensor
    own: Tensor


def _kept(
    mass: _Mass, table: TargetTable, tree: TreeTable | ClosureTable, dtype: torch.dtype
) -> Tensor:
    """`q_v = keep_v m_v`, from the mass that is put on each place."""
    unit = table.unit.to(mass.own.dtype)
    if table.spread is None:
        return _kept_of((mass.everywhere * unit + mass.own).to(dtype), table.keep, tree)
    # What every class gets may be cancelled at a target that smoothing leaves out: then exactly 0
    # has to be left.
    spread = widened(mass.everywhere) * _kept_of(table.unit[None], table.keep, tree)
    q = spread + _kept_of(widened(mass.own), table.keep, tree)
    rounding = 2.0**-20 if mass.own.dtype == torch.float32 else 2.0**-44
    return (q - torch.where(q.abs() <= rounding * spread.abs(), q, 0.0).detach()).to(dtype)


def _kept_of(mass: Tensor, keep: Tensor, tree: TreeTable | ClosureTable) -> Tensor:
    if isinstance(tree, ClosureTable):
        return dag_kept_mass(mass, keep, tree)
    return keep.to(mass.dtype) * sum_below(mass, tree, (1 - keep).to(mass.dtype))


def _log_prob(z: Tensor, tree: TreeTable | ClosureTable, eps: float) -> Tensor:
    """`log(P_v + eps)` by place."""
    if isinstance(tree, ClosureTable):
        return dag_log_prob(z, tree, spread_dead=True, eps=eps)
    return log_prob_at_places(z, tree, eps)


def _mass_of_probabilities(
    target: Tensor, tree: TreeTable | ClosureTable, table: TargetTable
) -> _Mass:
    """The mass of probabilities (B, T)."""
    check_mass_has_classes(target, table.place < 0)
    # Mass on targets without a class gets here only on an accelerator; such a row is NaN.
    target = torch.where((table.place < 0) & (target != 0), torch.nan, target)
    on_classes = target.new_full((target.shape[0],), table.row_spread)
    if table.spread is not None:
        # Not a product of matrices, which autocast would compute in half precision.
        on_classes = on_classes + (target * table.spread.to(target.dtype)).sum(1)
    own = target.new_zeros(target.shape[0], tree.num_places)
    place = torch.where(table.place >= 0, table.place, tree.num_places - 1).long()
    own = own.index_add(1, place, target * table.share.to(target.dtype))
    return _Mass(on_classes[:, None], own)


def _mass_of_indices(
    index: Tensor,
    weight: Tensor,
    tree: TreeTable | ClosureTable,
    table: TargetTable,
    ignore_index: int,
) -> _Mass:
    """The mass of K targets per row, (B, K), with their weights.

    In float64 if the device has it, so that what smoothing gives to a target and takes from it can
    cancel.
    """
    counts = index != ignore_index
    in_range = (index >= 0) & (index < table.num_targets)
    check_targets(index, counts & ~in_range, table.num_targets)
    index = torch.where(in_range, index, 0)
    place = table.place[index].long()
    check_targets_have_classes(index, counts & (place < 0))
    # Targets that are not valid get here only on an accelerator; such a row is NaN.
    valid = in_range & (place >= 0)
    weight = torch.where(valid, widened(weight), torch.nan)
    weight = torch.where(counts, weight, 0.0)

    unit, share = table.unit, table.share
    on_classes = unit.new_full((index.shape[0],), table.row_spread)
    if table.spread is not None:
        on_classes = on_classes + (weight * table.spread[index]).sum(1)
    own = unit.new_zeros(index.shape[0], tree.num_places)
    if table.soft_labels is None:
        own = own.scatter_add(1, place.clamp(min=0), weight * share[index])
        return _Mass(on_classes[:, None], own)
    assert isinstance(tree, TreeTable), "soft labels are made of lowest common ancestors"
    for k in range(index.shape[1]):
        labels = _soft_labels(place[:, k].clamp(min=0), tree, table.soft_labels, unit)
        own = own + (weight[:, k] * share[index[:, k]])[:, None] * labels
    return _Mass(on_classes[:, None], own)


def _soft_labels(place: Tensor, tree: TreeTable, soft: SoftLabels, unit: Tensor) -> Tensor:
    """The distribution over classes that stands for each target (B,), times `unit`, (B, P)."""
    parent = tree.parent.long()
    on_path = torch.zeros(place.shape[0], tree.num_places, dtype=torch.bool, device=place.device)
    above = place[:, None]
    for _ in range(len(tree.level_ptr)):
        on_path = on_path.scatter(1, above, True)
        above = torch.where(parent[above] >= 0, parent[above], above)

    # A place has the similarity of the lowest place on the target's path that it is at or below.
    log_similarity = torch.where(on_path, soft.log_similarity.to(unit.dtype), 0.0)
    for first, last in [*levels_up(tree)[-2::-1], (-tree.num_classes, 0)]:
        here = slice(tree.num_classes + first, tree.num_classes + last)
        inherited = log_similarity[:, parent[here]]
        log_similarity[:, here] = torch.where(on_path[:, here], log_similarity[:, here], inherited)
    # Similarities are relative to that of the nearest class, since all may be far away.
    nearest = log_similarity.gather(1, place[:, None])
    similarity = (log_similarity - nearest).exp()
    total = (similarity * soft.is_class.to(unit.dtype)).sum(1, keepdim=True)
    return similarity / total * unit
