"""Answers with guaranteed coverage: split conformal prediction with nodes as sets.

The answer is a node on the path of the most probable class, a_0 below a_1 below …: at threshold τ,
the lowest a_i with P_{a_i} > τ. It holds the truth y exactly where s(x, y) ≤ τ, s being the
probability of the node just below the lowest common ancestor of a_0 and y on that path (0 where a_0
holds y). With τ the ⌈(n + 1) · coverage⌉-th smallest of the s of n held-out rows, a further row's
answer holds its truth with probability `coverage` at least, whatever the model, as long as the rows
are exchangeable (Vovk et al., *Algorithmic Learning in a Random World*, 2005; Papadopoulos et al.,
2002). The guarantee is for rows on average, not for each class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hace_kernels.widest import widened

from ..answers.ancestry import tree_ancestry_of
from ..answers.points import points_of
from ..answers.rows import node_log_prob_rows, row_by_row
from ..metrics.scored import Scored, score
from ..predict import predict

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..hierarchy import Hierarchy
    from ..metrics.scored import LogitLabels
    from ..spaces import LogitSpace

__all__ = ["conformal_node", "conformal_threshold"]

_WHAT = "a conformal answer"


def conformal_threshold(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    coverage: float = 0.9,
    **labels: Unpack[LogitLabels],
) -> float:
    """The threshold of `conformal_node` with which answers hold the truth as often as wanted.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …) of held-out rows that neither the model nor
            any other choice was fitted to.
        target: their truths, integer, the input's shape without its class dimension.
        hierarchy: of both; a tree or forest.
        coverage: the wanted share of answers that hold the truth, between 0 and 1.
        labels: `logit_space`, `target_space`, `ignore_index`, see `hace.metrics.LogitLabels`.

    Returns:
        A probability; infinity if there are too few rows to guarantee any answer but the root.

    Raises:
        TypeError: input that is not floating point, a target that does not hold integers.
        ValueError: a DAG, the shapes do not fit, or an option is outside its range.
        IndexError: a target is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> threshold = hace.decode.conformal_threshold(logits, target, tree, coverage=0.7)
        >>> answers = hace.decode.conformal_node(logits, tree, threshold)
        >>> [tree.names[node] for node in answers]
        ['animal', 'animal/cat', 'vehicle/car']
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be between 0 and 1, got {coverage!r}")
    scored = score(input, target, hierarchy, **labels)
    scores = torch.cat([_scores(chunk) for chunk in scored.chunks()])
    # Where (n + 1) · coverage is a whole number, rounding must not make it the next.
    place = math.ceil((len(scores) + 1) * coverage - 1e-9)
    if place > len(scores):
        return math.inf
    return float(scores.kthvalue(place).values)


def conformal_node(
    input: Tensor,
    hierarchy: Hierarchy,
    threshold: float,
    *,
    logit_space: LogitSpace = "classes",
) -> Tensor:
    """The lowest node at or above the most probable class with a probability above `threshold`.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        hierarchy: of the classes; a tree or forest.
        threshold: from `conformal_threshold`.
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.

    Returns:
        int64 node ids, the input's shape without its class dimension. Where no node is probable
        enough, the root; in a forest, −1.

    Raises:
        TypeError: input that is not floating point.
        ValueError: the hierarchy is a DAG, the input's shape does not fit.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> answer = hace.decode.conformal_node(logits, tree, 0.8)
        >>> tree.names[answer[0]]
        'animal'
    """
    points = points_of(hierarchy)

    def decide(rows: Tensor) -> Tensor:
        ancestry = tree_ancestry_of(points, rows.device, _WHAT)
        log_prob = node_log_prob_rows(rows, hierarchy, logit_space)
        best = predict_nodes(rows, hierarchy, logit_space)

        def holds(point: Tensor) -> Tensor:
            node = point.clamp(max=hierarchy.num_nodes - 1)
            probability = widened(log_prob.gather(1, node[:, None])[:, 0]).exp()
            return (probability > threshold) | (point == points.num_points)

        return points.told(ancestry.lowest(best, holds))

    return row_by_row(input, hierarchy, logit_space, decide)


def _scores(s: Scored) -> Tensor:
    """s(x, y) of each row, float64."""
    ancestry = tree_ancestry_of(s.points, s.rows.device, _WHAT)
    log_prob = node_log_prob_rows(s.rows, s.hierarchy, s.logit_space)
    best = predict_nodes(s.rows, s.hierarchy, s.logit_space)
    lca = ancestry.lca(best, s.target)
    below = ancestry.at_depth(best, ancestry.depth[lca] + 1)
    probability = widened(log_prob.gather(1, below[:, None])[:, 0]).exp()
    return torch.where(lca == best, 0.0, probability)


def predict_nodes(rows: Tensor, hierarchy: Hierarchy, logit_space: LogitSpace) -> Tensor:
    """The node of the most probable class of each row."""
    return predict(rows, hierarchy, logit_space=logit_space, target_space="nodes")
