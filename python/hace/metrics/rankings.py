"""The k most probable classes: is the truth among them, and how far are they from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..hierarchy import Hierarchy
from .distances import Distance, distances
from .ratio import Ratio, share
from .scored import Scored, score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .scored import LogitLabels

__all__ = [
    "best_distance_at_k",
    "best_distance_ratio",
    "distance_at_k",
    "distance_at_k_ratio",
    "top_k_accuracy",
    "top_k_ratio",
]


def top_k_ratio(s: Scored, k: int = 1) -> Ratio:
    """The ratio of `top_k_accuracy`."""
    return share(s.top(k).is_below.view(-1, k).any(1))


def distance_at_k_ratio(s: Scored, k: int = 1, distance: Distance = "height") -> Ratio:
    """The ratio of `distance_at_k`."""
    return share(distances(s.top(k), distance))


def best_distance_ratio(s: Scored, k: int = 1, distance: Distance = "height") -> Ratio:
    """The ratio of `best_distance_at_k`."""
    return share(distances(s.top(k), distance).view(-1, k).amin(1))


def top_k_accuracy(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    k: int = 1,
    **labels: Unpack[LogitLabels],
) -> Tensor:
    """Share of the rows with the truth among the k most probable classes.

    Where the truth is a node, one of the k is at or below it.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: integer, the input's shape without its class dimension.
        hierarchy: of both; DAGs too.
        k: 1 to C.
        labels: `logit_space`, `target_space`, `ignore_index`, see `hace.metrics.LogitLabels`.

    Returns:
        A scalar in [0, 1]; NaN without rows.

    Raises:
        TypeError: input that is not floating point, a target that does not hold integers.
        ValueError: the shapes do not fit, or an option is outside its range.
        IndexError: a target is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> hace.metrics.top_k_accuracy(logits, target, tree, k=1)
        tensor(0.6667)
    """
    return top_k_ratio(score(input, target, hierarchy, **labels), k).value()


def distance_at_k(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    k: int = 1,
    *,
    distance: Distance = "height",
    **labels: Unpack[LogitLabels],
) -> Tensor:
    """Mean distance of the k most probable classes from the truth, over k and all rows.

    With "height" it is the hierarchical distance of a top-k of Bertinetto et al., CVPR 2020,
    section 4. Arguments and errors as for `top_k_accuracy`.

    Args:
        input, target, hierarchy, k, labels: as for `top_k_accuracy`.
        distance: "height", "depth" or "hops", see `hace.metrics.Distance`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> hace.metrics.distance_at_k(logits, target, tree, k=2)
        tensor(0.6667)
    """
    return distance_at_k_ratio(score(input, target, hierarchy, **labels), k, distance).value()


def best_distance_at_k(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    k: int = 1,
    *,
    distance: Distance = "height",
    **labels: Unpack[LogitLabels],
) -> Tensor:
    """Mean over the rows of the distance of the nearest of the k most probable classes.

    Arguments and errors as for `distance_at_k`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> target = torch.tensor([1, 0, 2])
        >>> hace.metrics.best_distance_at_k(logits, target, tree, k=1)
        tensor(0.3333)
    """
    return best_distance_ratio(score(input, target, hierarchy, **labels), k, distance).value()
