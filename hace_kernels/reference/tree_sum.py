"""`tree_sum_up` and `tree_sum_down`: sums over subtrees and along paths."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rows import loss_dtype
from ..tree_table import TreeTable

__all__ = ["at_places", "levels_up", "of_nodes", "sum_below", "tree_sum_down", "tree_sum_up"]


def tree_sum_up(values: Tensor, tree: TreeTable) -> Tensor:
    """Sums over subtrees; see `hace_kernels.tree_sum_up`."""
    x = values.to(loss_dtype(values.dtype))
    own = torch.cat([x, x.new_zeros(x.shape[0], tree.num_inner)], 1)
    return of_nodes(sum_below(own, tree), tree, 0.0).to(values.dtype)


def tree_sum_down(values: Tensor, tree: TreeTable) -> Tensor:
    """Sums along paths; see `hace_kernels.tree_sum_down`."""
    x = at_places(values.to(loss_dtype(values.dtype)), tree)
    num_classes = tree.num_classes
    parent = tree.parent.long() - num_classes
    levels: list[Tensor] = []
    for first, last in levels_up(tree)[::-1]:
        here = x[:, num_classes + first : num_classes + last]
        if levels:
            here = here + levels[-1][:, parent[num_classes + first : num_classes + last] - last]
        levels.append(here)
    inner = torch.cat(levels[::-1], 1)
    return (x[:, :num_classes] + inner[:, parent[:num_classes]]).to(values.dtype)


def sum_below(own: Tensor, tree: TreeTable, share: Tensor | None = None) -> Tensor:
    """`total_v = own_v + Σ share_c total_c` over the children c of v: own (B, P) to (B, P).

    Args:
        own: (B, P).
        tree: the table.
        share: the share of a place that its parent gets, (P) or (B, P); None: 1.
    """
    num_classes = tree.num_classes
    parent = tree.parent.long() - num_classes

    def handed_up(total: Tensor, first: int, last: int) -> Tensor:
        return total if share is None else total * share[..., first:last]

    from_columns = handed_up(own[:, :num_classes], 0, num_classes)
    if tree.num_inner == 1:
        inner = own[:, num_classes:] + from_columns.sum(1, keepdim=True)
    else:
        inner = own[:, num_classes:].index_add(1, parent[:num_classes], from_columns)
    levels: list[Tensor] = []
    start = 0
    for first, last in levels_up(tree):
        here = inner[:, first:last]
        if levels:
            risen = handed_up(levels[-1], num_classes + start, num_classes + first)
            if last - first == 1:  # Inductor does not compile index_add into one element
                here = here + risen.sum(1, keepdim=True)
            else:
                below = parent[num_classes + start : num_classes + first] - first
                here = here.index_add(1, below, risen)
        levels.append(here)
        start = first
    return torch.cat([own[:, :num_classes], *levels], 1)


def at_places(x: Tensor, tree: TreeTable) -> Tensor:
    """Values (B, N) by node id as (B, P) by place; 0 at places without a node."""
    has_place = tree.place >= 0
    place = torch.where(has_place, tree.place, tree.num_places - 1).long()
    x = torch.where(has_place, x, 0.0)
    return x.new_zeros(x.shape[0], tree.num_places).index_add(1, place, x)


def of_nodes(x: Tensor, tree: TreeTable, elsewhere: float) -> Tensor:
    """Values (B, P) by place as (B, N) by node id; nodes without a place get `elsewhere`."""
    place = tree.place.long()
    return torch.where(place >= 0, x[:, place.clamp(min=0)], elsewhere)


def levels_up(tree: TreeTable) -> list[tuple[int, int]]:
    """Bounds of the levels among the inner places, the deepest first."""
    return list(zip(tree.level_ptr[:-1], tree.level_ptr[1:], strict=True))
