"""How far answers are from the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from .compare import Comparison, compare, compare_rows
from .ratio import Ratio, share

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .compare import Labels, Spaces

__all__ = [
    "Distance",
    "distance_ratio",
    "distances",
    "edge_distance",
    "lca_height",
    "mean_distance",
    "mistake_severity",
    "severity_ratio",
]

Distance = Literal["height", "depth", "hops"]
"""How an answer's distance from the truth is measured, in edges; 0 for a right answer.

`"height"`: from the lowest common ancestor down to the deepest leaf below it (Bertinetto et al.,
CVPR 2020). `"depth"`: from the lowest common ancestor's depth to the depth of the deepest leaf of
the hierarchy; divided by the hierarchy's depth, it is the distance of arXiv 2605.06274. `"hops"`:
from one up to a common ancestor and down to the other. In a forest there is a virtual root above
the roots.
"""


def distances(c: Comparison, distance: Distance) -> Tensor:
    """The distance of each row, int64 (R).

    Raises:
        ValueError: there is no such distance.
    """
    if distance == "hops":
        return c.meeting.distance
    if distance == "height":
        apart = c.meeting.height
    elif distance == "depth":
        apart = c.points.tree.depth - c.meeting.depth
    else:
        raise ValueError(f"distance must be 'height', 'depth' or 'hops', got {distance!r}")
    return torch.where(c.right, 0, apart)


def severity_ratio(c: Comparison, distance: Distance = "height") -> Ratio:
    """The ratio of `mistake_severity`."""
    return Ratio(distances(c, distance).sum(), (~c.right).sum())


def distance_ratio(c: Comparison, distance: Distance = "height") -> Ratio:
    """The ratio of `mean_distance`."""
    return share(distances(c, distance))


def lca_height(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **spaces: Unpack[Spaces]
) -> Tensor:
    """Height of the lowest common ancestor, row by row (Bertinetto et al., CVPR 2020, section 4).

    The height of a node is the number of edges to the deepest node below it, so a right class has 0
    and a sibling at least 1. A right answer at an inner node has the height of that node, since it
    leaves the class open. On a DAG it is the least height of all common ancestors.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both.
        spaces: `target_space` and `pred_space`, see `hace.metrics.Spaces`.

    Returns:
        int64, the shape of `pred`.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: the shapes differ.
        IndexError: an index is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.lca_height(pred, target, tree)
        tensor([0, 1, 2, 0])
    """
    return compare_rows(pred, target, hierarchy, **spaces).meeting.height.view(pred.shape)


def edge_distance(
    pred: Tensor, target: Tensor, hierarchy: Hierarchy, **spaces: Unpack[Spaces]
) -> Tensor:
    """Edges on the path from answer to truth over a common ancestor, row by row.

    Arguments, shape and errors as for `lca_height`. On a DAG it is the shortest such path.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.edge_distance(pred, target, tree)
        tensor([0, 2, 4, 0])
    """
    return compare_rows(pred, target, hierarchy, **spaces).meeting.distance.view(pred.shape)


def mistake_severity(
    pred: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    distance: Distance = "height",
    **labels: Unpack[Labels],
) -> Tensor:
    """Mean distance over the rows where the answer is not the truth; NaN where all are right.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both.
        distance: "height", "depth" or "hops", see `hace.metrics.Distance`.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.

    Returns:
        A scalar, in edges.

    Raises:
        TypeError: `pred` or `target` does not hold integers.
        ValueError: the shapes differ, or an option is unknown.
        IndexError: an index is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.mistake_severity(pred, target, tree)
        tensor(1.5000)
    """
    return severity_ratio(compare(pred, target, hierarchy, **labels), distance).value()


def mean_distance(
    pred: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    distance: Distance = "height",
    **labels: Unpack[Labels],
) -> Tensor:
    """Mean distance over all rows, right ones included. Otherwise as `mistake_severity`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred = torch.tensor([0, 0, 0, 2])  # cat, cat, cat, car
        >>> target = torch.tensor([0, 1, 2, 2])  # cat, dog, car, car
        >>> hace.metrics.mean_distance(pred, target, tree)
        tensor(0.7500)
    """
    return distance_ratio(compare(pred, target, hierarchy, **labels), distance).value()
