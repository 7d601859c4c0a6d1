"""The node with the most expected information."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..answers.points import points_of
from ..answers.rows import node_log_prob_rows, row_by_row
from ..answers.specificity import Specificity, specificity_of
from ..checks import as_finite

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy
    from ..spaces import LogitSpace

__all__ = ["expected_information"]


def expected_information(
    input: Tensor,
    hierarchy: Hierarchy,
    bonus: float = 0.0,
    *,
    specificity: Specificity = "information",
    logit_space: LogitSpace = "classes",
) -> Tensor:
    """The node v with the largest P_v · (information of v + bonus).

    With bonus 0 this maximises the expected information, where a wrong answer counts as none. A
    larger bonus for being right makes answers coarser and more accurate. `calibrate_bonus` finds
    the bonus for a wanted accuracy: no other answers of that accuracy have more information (DARTS:
    Deng et al., *Hedging Your Bets: Optimizing Accuracy-Specificity Trade-offs in Large Scale
    Visual Recognition*, CVPR 2012).

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        hierarchy: of the classes; DAGs too.
        bonus: from 0 on, in bits (in edges for "depth").
        specificity: "information", log2(C / classes at or below v), or "depth".
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.

    Returns:
        int64 node ids, the input's shape without its class dimension; −1 where in a forest it is
        best to say nothing.

    Raises:
        TypeError: input that is not floating point, or a bonus that is not a number.
        ValueError: the input's shape does not fit, or an option is outside its range.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> answer = hace.decode.expected_information(logits, tree, bonus=2.0)
        >>> tree.names[answer[0]]
        'animal'
    """
    bonus = as_finite("bonus", bonus)
    if bonus < 0:
        raise ValueError(f"bonus must be 0 or more, got {bonus!r}")
    points = points_of(hierarchy)

    def decide(rows: Tensor) -> Tensor:
        table = specificity_of(hierarchy, specificity, rows.device)
        score = node_log_prob_rows(rows, hierarchy, logit_space).exp_()
        score.mul_((table.value + bonus).to(score.dtype))
        best, node = score.masked_fill_(table.rank < 0, -torch.inf).max(1)
        # To say nothing is always right.
        return points.told(torch.where(best < bonus, points.num_points, node))

    return row_by_row(input, hierarchy, logit_space, decide)
