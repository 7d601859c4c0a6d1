"""The answer of least expected cost, exactly, in two sweeps over the tree.

Karthik et al., *No Cost Likelihood Manipulation at Test Time for Making Better Mistakes in Deep
Networks*, ICLR 2021, multiply the class probabilities by a C × C matrix of costs. The costs that
come from a tree need no matrix.

Let c be an answer, a_0 = c, a_1, …, a_k the points on its path to the (virtual) root, and y the
truth, so that their lowest common ancestor is the first a_i with y at or below it.

A cost φ(lca(c, y)) that depends on the ancestor alone is a sum of steps: a step from a_{i−1} to a_i
is paid when y is not below a_{i−1}. With P_v the probability of v,

    E[φ] = φ(c) + Σ_{i ≥ 1} (φ(a_i) − φ(a_{i−1})) (1 − P_{a_{i−1}}).

The edges between c and y are those up from c, paid like these steps of 1, and those down to y:
every node that is not above c is passed with probability P_v. So

    E[hops] = Σ_v P_v + Σ_{v on the path of c} (1 − 2 P_v).

Either way: one sweep up for P, one product with a constant for each node, one sweep down for the
sums over paths. O(N) for each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

import hace_kernels
from hace_kernels.widest import widened

from ..answers.ancestry import tree_ancestry_of
from ..answers.points import Points, points_of
from ..answers.rows import point_log_prob_rows, row_by_row
from ..metrics.distances import Distance
from ..spaces import check_target_space
from ..tables import Tables

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy
    from ..spaces import LogitSpace, TargetSpace

__all__ = ["expected_cost", "minimum_expected_cost"]


def minimum_expected_cost(
    input: Tensor,
    hierarchy: Hierarchy,
    *,
    cost: Distance = "height",
    logit_space: LogitSpace = "classes",
    target_space: TargetSpace = "classes",
) -> Tensor:
    """The answer of least expected cost for each row; of equals the first.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        hierarchy: of the classes; a tree or forest.
        cost: of answering one class where another is true: "height" or "depth" of their lowest
            common ancestor, or "hops" between them, see `hace.metrics.Distance`.
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.
        target_space: the answers to choose among, and what is returned: labels of "classes", or
            ids of "nodes". Only with "hops" can an inner node be cheaper than a class below it.

    Returns:
        int64, the input's shape without its class dimension.

    Raises:
        TypeError: input that is not floating point.
        ValueError: a DAG, the input's shape does not fit, or there is no such option.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[0.9, 0.8, 1.0]])  # most likely a car, and yet an animal
        >>> answer = hace.decode.minimum_expected_cost(logits, tree)
        >>> tree.class_names[answer[0]]
        'animal/cat'
    """
    expected = _Expected(hierarchy, cost, logit_space, target_space)
    return row_by_row(input, hierarchy, logit_space, lambda rows: expected(rows).argmin(1))


def expected_cost(
    input: Tensor,
    hierarchy: Hierarchy,
    *,
    cost: Distance = "height",
    logit_space: LogitSpace = "classes",
    target_space: TargetSpace = "classes",
) -> Tensor:
    """The expected cost of every answer, in edges.

    Arguments and errors as for `minimum_expected_cost`.

    Returns:
        The input's shape without its class dimension, and then one entry for each class or node;
        float64 for float64 input and float32 otherwise.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> hace.decode.expected_cost(logits, tree)
        tensor([[0.5762, 0.6228, 1.8673]])
    """
    expected = _Expected(hierarchy, cost, logit_space, target_space)
    return row_by_row(input, hierarchy, logit_space, expected)


class _Steps(NamedTuple):
    """The costs of a tree: at each point φ, and what the step up from it costs; (P)."""

    start: Tensor
    step: Tensor


class _Expected:
    """From rows of logits to expected costs."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        cost: Distance,
        logit_space: LogitSpace,
        target_space: TargetSpace,
    ) -> None:
        if cost not in ("height", "depth", "hops"):
            raise ValueError(f"cost must be 'height', 'depth' or 'hops', got {cost!r}")
        check_target_space(target_space)
        self.points = points_of(hierarchy)
        self.cost, self.logit_space, self.target_space = cost, logit_space, target_space

    def __call__(self, rows: Tensor) -> Tensor:
        points, device = self.points, rows.device
        ancestry = tree_ancestry_of(points, device, "the expected cost of an answer")
        values = point_log_prob_rows(rows, points, self.logit_space)
        if self.cost == "hops":
            values.exp_()
            down = values.sum(1, keepdim=True)
            values.mul_(-2).add_(1)
            start = values.new_zeros(points.num_points)
        else:
            steps = Tables.of(points.hierarchy).derived(
                ("steps", self.cost, device), lambda: _steps(points, ancestry.parent, self.cost)
            )
            values.expm1_().mul_(-steps.step.to(values.dtype))
            down, start = values.new_zeros(1, 1), steps.start.to(values.dtype)
        table = Tables.of(points.tree).nodes(self.target_space, device=device)
        of_answers = hace_kernels.tree_sum_down(values, table)
        if self.target_space == "nodes":
            of_answers = of_answers[:, : points.hierarchy.num_nodes]
            return of_answers + (start[: of_answers.shape[1]] + down)
        return of_answers.add_(down)


def _steps(points: Points, parent: Tensor, cost: Distance) -> _Steps:
    """φ is 0 at the leaves: an answer that is a class costs nothing where it is right."""
    tables = points.on(parent.device)
    if cost == "height":
        level = tables.height
    else:
        level = torch.where(tables.height == 0, 0, points.tree.depth - tables.depth)
    return _Steps(widened(level[:-1]), widened((level[parent] - level)[:-1]))
