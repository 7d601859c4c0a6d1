"""Top-down prediction: from the root, always to the most probable child."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..answers.points import Points, points_of
from ..answers.rows import point_log_prob_rows, row_by_row
from ..answers.specificity import classes_below
from ..spaces import check_target_space
from ..tables import Tables

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy
    from ..spaces import LogitSpace, TargetSpace

__all__ = ["top_down_greedy"]


def top_down_greedy(
    input: Tensor,
    hierarchy: Hierarchy,
    *,
    logit_space: LogitSpace = "classes",
    target_space: TargetSpace = "classes",
) -> Tensor:
    """The class that is reached from the top by going to the most probable child each time.

    A class at an inner node is one of the node's children. Of equal children the first is taken.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        hierarchy: of the classes; DAGs too.
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.
        target_space: what is returned: labels of "classes", or ids of "nodes".

    Returns:
        int64, the input's shape without its class dimension.

    Raises:
        TypeError: input that is not floating point.
        ValueError: the input's shape does not fit, or there is no such option.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[0.9, 0.8, 1.0]])  # most likely a car, and yet an animal
        >>> answer = hace.decode.top_down_greedy(logits, tree)
        >>> tree.class_names[answer[0]]
        'animal/cat'
    """
    check_target_space(target_space)
    points = points_of(hierarchy)

    def walk(rows: Tensor) -> Tensor:
        log_prob = point_log_prob_rows(rows, points, logit_space)
        table = Tables.of(hierarchy).derived(
            ("children", rows.device), lambda: _children(points, rows.device)
        )
        point = _walk(log_prob, table)
        return points.told(point) if target_space == "nodes" else table.label[point]

    return row_by_row(input, hierarchy, logit_space, walk)


class _Children(NamedTuple):
    """The children of each point with a class at or below, ascending; tensors on one device.

    Attributes:
        ptr: int64 (P+2), bounds in `child`; the virtual root is point P.
        child: int64.
        label: int64 (P+1), of the points that are classes.
    """

    ptr: Tensor
    child: Tensor
    label: Tensor


def _children(points: Points, device: torch.device) -> _Children:
    tree, virtual = points.tree, points.num_points
    roots = np.stack([np.full(len(tree.roots), virtual), tree.roots], 1)
    parent, child = np.concatenate([tree.edges, roots]).T
    kept = classes_below(tree).numpy()[child] > 0
    parent, child = parent[kept], child[kept]
    child = child[np.lexsort((child, parent))]
    ptr = np.concatenate([[0], np.bincount(parent, minlength=virtual + 1).cumsum()])
    label = np.full(virtual + 1, -1)
    label[tree.classes] = np.arange(tree.num_classes)
    return _Children(*(torch.from_numpy(array).to(device) for array in (ptr, child, label)))


def _walk(log_prob: Tensor, table: _Children) -> Tensor:
    """The leaf that each row reaches, in time for the children along the way, at most N."""
    num_rows = len(log_prob)
    at = torch.full((num_rows,), log_prob.shape[1], device=log_prob.device)
    while True:
        start = table.ptr[at]
        count = table.ptr[at + 1] - start
        row = torch.repeat_interleave(count)
        if not len(row):
            return at
        entry = torch.arange(len(row), device=row.device) + (start - count.cumsum(0) + count)[row]
        of_child = log_prob[row, table.child[entry]]
        best = of_child.new_full((num_rows,), -torch.inf)
        best = best.scatter_reduce(0, row, of_child, "amax")
        # A row that is NaN has no best child; it takes the last.
        is_best = of_child == best[row]
        last = start + count - 1
        first_best = last.scatter_reduce(0, row, torch.where(is_best, entry, last[row]), "amin")
        at = torch.where(count > 0, table.child[first_best.clamp(min=0)], at)
