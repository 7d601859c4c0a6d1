"""The Pareto-optimal nodes: no other node is both more probable and more specific."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..answers.rows import chunks_of, input_rows, node_log_prob_rows
from ..answers.specificity import Specificity, pareto_steps, specificity_of

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy
    from ..spaces import LogitSpace

__all__ = ["ParetoNodes", "pareto_nodes"]


class ParetoNodes(NamedTuple):
    """The Pareto-optimal nodes of R rows, from the most probable to the most specific of each.

    Attributes:
        ptr: int64 (R+1), bounds of each row's nodes.
        node: int64 ids.
        probability: descending in each row.
    """

    ptr: Tensor
    node: Tensor
    probability: Tensor


def pareto_nodes(
    input: Tensor,
    hierarchy: Hierarchy,
    *,
    specificity: Specificity = "information",
    logit_space: LogitSpace = "classes",
) -> ParetoNodes:
    """For each row the nodes such that none is as specific and as probable, or more.

    These are the answers of `deepest_node` at all thresholds (Valmadre, *Hierarchical
    classification at multiple operating points*, NeurIPS 2022, section 3).

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating; its rows are those of
            (N · d1 · …, C).
        hierarchy: of the classes; DAGs too.
        specificity: "information", log2(C / classes at or below a node), or "depth".
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.

    Raises:
        TypeError: input that is not floating point.
        ValueError: the input's shape does not fit, or there is no such option.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> found = hace.decode.pareto_nodes(logits, tree)
        >>> [tree.names[node] if node >= 0 else "any" for node in found.node]
        ['animal', 'animal/cat']
    """
    rows = input_rows(input, hierarchy, logit_space)
    table = specificity_of(hierarchy, specificity, rows.device)
    counts, nodes, log_probs = [], [], []
    for chunk in chunks_of(rows, hierarchy.num_nodes):
        steps = pareto_steps(node_log_prob_rows(chunk, hierarchy, logit_space), table)
        counts.append(torch.bincount(steps.row, minlength=len(chunk)))
        nodes.append(steps.node)
        log_probs.append(steps.log_prob)
    ptr = torch.cat([counts[0].new_zeros(1), torch.cat(counts).cumsum(0)])
    return ParetoNodes(ptr, torch.cat(nodes), torch.cat(log_probs).exp_())
