"""Log-loss over the path with weights of your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, get_args

import numpy as np
from torch import Tensor

from hace_kernels import PathWeights

from ..hierarchy import Hierarchy
from ..options import LossOptions, Reduction
from ..spaces import LogitSpace, TargetSpace
from ..tables import Tables
from ..weights import CallableWeights, NodeWeights, Scheme, SuperclassWeights
from .path_loss import PathLoss, check_tree

__all__ = ["PathLogLoss"]


class PathLogLoss(PathLoss):
    """Log-loss over the target's path with any weights, `L = −Σ_i w_i log P_{a_i}`.

    Weights may be negative. The proper scoring rules with superclass weights of Urbani et al. 2024
    (arXiv 2411.16438) are named schemes. They hand a mass of 1 down the path, beginning below the
    root: a node of height h (edges to the deepest leaf below it) takes its share, and the target
    takes what is left.

    Args:
        hierarchy: of the classes; a tree or forest.
        path_weights: one of the schemes

            - "balanced": m/(h+1) of the m that reaches a node,
            - "power": |1−q| m / |1−q^(h+1)|,
            - "lazy": 1/H to each inner node, H being the hierarchy's height;

            or one weight per node, (N,) numbers by node id; or a function of four int64 arrays
            (target, node, depth, height) with an entry for every node on every path, which returns
            as many weights. The label of a class at an inner node v starts its path with an entry
            of its own, which has v as its node, v's depth + 1 and height 0.
        q: of "power".
        logit_space, target_space, weight, ignore_index, reduction, eps, backend: as in
            `hace.HACELoss`. Targets are indices.

    Raises:
        ValueError: at construction: path weights of a wrong shape or not finite, an option outside
            its range; at call: shapes that do not fit, or a target that is not an index.
        TypeError, IndexError, hace.BackendError, MemoryError: as `hace.HACELoss`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> target = torch.tensor([1, 2])  # a dog and a car
        >>> hace.PathLogLoss(tree, "balanced")(logits, target)
        tensor(0.4604)
        >>> one_per_node = torch.ones(tree.num_nodes)
        >>> hace.PathLogLoss(tree, one_per_node)(logits, target)
        tensor(0.9208)
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        path_weights: Scheme | Callable[..., Any] | Any,
        *,
        q: float = 2.0,
        logit_space: LogitSpace = "classes",
        target_space: TargetSpace = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        eps: float = 0.0,
        backend: str = "auto",
    ) -> None:
        check_tree(hierarchy, "PathLogLoss")
        options = LossOptions.of(
            logit_space=logit_space,
            target_space=target_space,
            ignore_index=ignore_index,
            reduction=reduction,
            eps=eps,
            backend=backend,
        )
        super().__init__(hierarchy, _weights_of(hierarchy, path_weights, q), options, weight)

    def _own_repr(self) -> str:
        return f"path_weights={self.path_weights!r}"


def _weights_of(hierarchy: Hierarchy, path_weights: Any, q: float) -> PathWeights:
    labels = Tables.of(hierarchy).labels
    if isinstance(path_weights, str) and path_weights in get_args(Scheme):
        links = labels.links
        scheme = cast(Scheme, path_weights)
        return SuperclassWeights(links.parents, links.depths, links.heights, scheme, q)
    if callable(path_weights):
        return CallableWeights(path_weights, labels.node)
    expected = (
        "path_weights must be 'balanced', 'power', 'lazy', a function, or "
        f"({hierarchy.num_nodes},) numbers, one for each node of the hierarchy"
    )
    if isinstance(path_weights, str):
        raise ValueError(f"{expected}; got {path_weights!r}")
    if isinstance(path_weights, Tensor):
        path_weights = path_weights.detach().cpu().double().numpy()
    of_nodes = np.array(path_weights, np.float64)
    if of_nodes.shape != (hierarchy.num_nodes,):
        raise ValueError(f"{expected}; got shape {of_nodes.shape}")
    return NodeWeights(of_nodes[labels.node])
