"""How specific an answer is, and the Pareto-optimal answers of a row.

Of two nodes, the more specific one is deeper, or has fewer classes below it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

import hace_kernels
from hace_kernels.widest import moved

from ..hierarchy import Hierarchy
from ..tables import Tables

__all__ = ["ParetoSteps", "Specificity", "SpecificityTable", "pareto_steps", "specificity_of"]

Specificity = Literal["information", "depth"]
"""`"information"`: log2(C / number of classes at or below the node), in bits.
`"depth"`: edges from the root; in a forest, from a virtual root above its roots."""


class SpecificityTable(NamedTuple):
    """What each node says, in K ranks; tensors on one device.

    Attributes:
        rank: int32 (N), ascending in what a node says, 0 … K−1; −1 for a node that is not an
            answer: it has no class at or below it, or (by information) a node below it has the same
            classes and says the same more precisely.
        value: float64 (N), bits or edges.
        num_ranks: K.
    """

    rank: Tensor
    value: Tensor
    num_ranks: int


def specificity_of(
    hierarchy: Hierarchy, specificity: Specificity, device: torch.device
) -> SpecificityTable:
    """The table of a hierarchy on `device`, built once.

    Raises:
        ValueError: there is no such specificity.
    """
    if specificity not in ("information", "depth"):
        raise ValueError(f"specificity must be 'information' or 'depth', got {specificity!r}")
    return Tables.of(hierarchy).derived(
        ("specificity", specificity, device), lambda: _build(hierarchy, specificity, device)
    )


def _build(
    hierarchy: Hierarchy, specificity: Specificity, device: torch.device
) -> SpecificityTable:
    size = classes_below(hierarchy)
    is_answer = size > 0
    if specificity == "depth":
        levels_above = int(len(hierarchy.roots) > 1)
        value = torch.from_numpy(hierarchy.depths + float(levels_above))
    else:
        value = math.log2(hierarchy.num_classes) - size.clamp(min=1).log2()
        parent, child = torch.from_numpy(hierarchy.edges.copy()).unbind(1)
        is_answer[parent[size[parent] == size[child]]] = False
    rank = torch.full((hierarchy.num_nodes,), -1, dtype=torch.int32)
    distinct, places = torch.unique(value[is_answer], return_inverse=True)
    rank[is_answer] = places.int()
    return SpecificityTable(rank.to(device), moved(value, device), len(distinct))


def classes_below(hierarchy: Hierarchy) -> Tensor:
    """The number of classes at or below each node, each counted once; float64 (N)."""
    ones = torch.ones(1, hierarchy.num_classes, dtype=torch.float64)
    return hace_kernels.tree_sum_up(ones, Tables.of(hierarchy).nodes())[0].round()


class ParetoSteps(NamedTuple):
    """Answers that no other beats, row by row, in ascending specificity: S of them in R rows.

    Attributes:
        row: int64 (S), ascending.
        node: int64 (S).
        log_prob: (S), descending in each row.
    """

    row: Tensor
    node: Tensor
    log_prob: Tensor


def pareto_steps(log_prob: Tensor, table: SpecificityTable) -> ParetoSteps:
    """The nodes of each row such that none says as much or more and is as probable or more.

    Of equals the one of least id. O(N + K) for each row, for K ranks of specificity.

    Source: Valmadre, *Hierarchical classification at multiple operating points*, NeurIPS 2022,
    section 3.

    Args:
        log_prob: (R, N).
        table: of the same hierarchy and device.
    """
    num_rows, num_nodes = log_prob.shape
    nodes = (table.rank >= 0).nonzero()[:, 0]
    rank = table.rank[nodes].long().expand(num_rows, -1)
    log_prob = log_prob.index_select(1, nodes)
    best = log_prob.new_full((num_rows, table.num_ranks), -torch.inf)
    best.scatter_reduce_(1, rank, log_prob, "amax")
    # Beaten where a more specific rank has as much; a row's last rank with the best is its best.
    beyond = best.flip(1).cummax(1).values.flip(1)
    kept = best > -torch.inf
    kept[:, :-1] &= best[:, :-1] > beyond[:, 1:]
    node_of = torch.full(best.shape, num_nodes, device=best.device)
    is_best = log_prob == best.gather(1, rank)
    node_of.scatter_reduce_(1, rank, torch.where(is_best, nodes, num_nodes), "amin")
    row, at = kept.nonzero(as_tuple=True)
    return ParetoSteps(row, node_of[row, at], best[row, at])
