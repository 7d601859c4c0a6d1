"""The ops over a DAG as formulas that PyTorch differentiates and batches by itself, in any order.

They need memory for a number per row and entry of the closure table, unlike `dag.py`. That module
is for values and ordinary gradients; this one is for torch.func's transforms, forward mode, and
graphs that serve any number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..closure_table import ClosureTable, Ragged
from .log_sums import LogSum, ratio

__all__ = ["log_prob", "risen_mass", "sums"]


def sums(values: Tensor, lists: Ragged) -> Tensor:
    """The sum of each list's items: (B, items) to (B, lists)."""
    return _summed(values[:, lists.item.long()], lists)


def log_prob(z: Tensor, table: ClosureTable, spread_dead: bool, eps: float) -> Tensor:
    """`log(P_v + eps)` of every node by node id, (B, C) to (B, N); see `dag.dag_log_prob`."""
    lists = table.below
    lowest = torch.finfo(z.dtype).min
    terms = z[:, lists.item.long()]
    owner = _owner(lists).expand(terms.shape)
    top = z.new_full((z.shape[0], lists.num_lists), lowest)
    top = top.scatter_reduce(1, owner, terms.detach().clamp(min=lowest), "amax")
    total = _summed((terms - top.gather(1, owner)).exp(), lists)
    row_top = z.detach().clamp(min=lowest).amax(1, keepdim=True)
    row_total = (z - row_top).exp().sum(1, keepdim=True)
    if eps:
        return (ratio(LogSum(top, total), LogSum(row_top, row_total)) + eps).log()
    dead = total == 0
    alive = (top - row_top) + (torch.where(dead, 1.0, total).log() - row_total.log())
    # The mean of logits that are all −inf is −inf too, and its gradient is spread evenly.
    mean = _summed(terms, lists) / lists.ptr.diff().clamp(min=1)
    has_columns = lists.ptr.diff() > 0
    gone = torch.where(has_columns, mean, -torch.inf) - (row_top + row_total.log())
    result = torch.where(dead, gone, alive)
    # −inf is replaced by a constant, which passes no gradient on.
    return result if spread_dead else torch.where(result == -torch.inf, -torch.inf, result)


def risen_mass(mass: Tensor, share: Tensor, table: ClosureTable) -> Tensor:
    """`m_v = t_v + Σ_{children c} share_{vc} m_c`, level by level: (B, N) to (B, N)."""
    for first, last in zip(table.edge_level_ptr[:-1], table.edge_level_ptr[1:], strict=True):
        child, parent = table.edge_child[first:last].long(), table.edge_parent[first:last].long()
        mass = mass.index_add(1, parent, share[first:last] * mass[:, child])
    return mass


def _owner(lists: Ragged) -> Tensor:
    """The list of each entry."""
    # The number of lists that have ended. ONNX has no repeat_interleave with a given size.
    ends = lists.ptr[1:-1].long()
    ended = ends.new_zeros(len(lists.item) + 1).index_add(0, ends, torch.ones_like(ends))
    return ended[:-1].cumsum(0)


def _summed(entries: Tensor, lists: Ragged) -> Tensor:
    """The sum over each list: (B, entries) to (B, lists)."""
    nothing = entries.new_zeros(entries.shape[0], lists.num_lists)
    return nothing.index_add(1, _owner(lists), entries)
