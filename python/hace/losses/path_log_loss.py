"""Log-loss over the path with weights of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, get_args

import numpy as np
from torch import Tensor

from hace_kernels.path_table import PathWeights

from ..hierarchy import Columns, Hierarchy, Space, check_tree
from ..options import LossOptions, Reduction
from ..weights import CallableWeights, NodeWeights, Scheme, SuperclassWeights
from .path_loss import PathLoss

__all__ = ["PathLogLoss"]


class PathLogLoss(PathLoss):
    """Log-loss over the target's path with any weights, `L = −Σ_i w_i log P_{a_i}`.

    Weights may be negative. The proper scoring rules with superclass weights of Urbani et al. 2024
    (arXiv 2411.16438) are named schemes; they hand a mass of 1 down the path from below the root,
    of which a node of height h (edges to the deepest leaf below it) takes its share and the target
    what is left.

    Args:
        hierarchy: of the classes; a tree or forest.
        weights: one of the schemes

            - "balanced": m/(h+1) of the m that reaches a node,
            - "power": |1−q| m / |1−q^(h+1)|,
            - "lazy": 1/H to each inner node, H being the hierarchy's height;

            or one weight a node, (N,) numbers by node id; or a function of four int64 arrays
            (target, node, depth, height) with an entry for every node on every path, which returns
            as many weights.
        q: of "power".
        logits, targets, weight, ignore_index, reduction, eps, backend: as in `hace.HACELoss`.
            Targets are indices.

    Raises:
        ValueError: at construction: weights of a wrong shape or not finite, an option outside its
            range; at call: shapes that do not fit, or a target that is no index.
        TypeError, IndexError, hace.BackendError, MemoryError: as `hace.HACELoss`.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        weights: Scheme | Callable[..., Any] | Any,
        *,
        q: float = 2.0,
        logits: Columns = "classes",
        targets: Space = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        eps: float = 0.0,
        backend: str = "auto",
    ) -> None:
        check_tree(hierarchy, "PathLogLoss")
        options = LossOptions(logits, targets, ignore_index, reduction, eps=eps, backend=backend)
        super().__init__(hierarchy, _path_weights(hierarchy, weights, q), options, weight)

    def _own_repr(self) -> str:
        return f"weights={self.path_weights!r}"


def _path_weights(hierarchy: Hierarchy, weights: Any, q: float) -> PathWeights:
    if isinstance(weights, str) and weights in get_args(Scheme):
        return SuperclassWeights(hierarchy, cast(Scheme, weights), q)
    if callable(weights):
        return CallableWeights(weights)
    expected = (
        f"weights must be 'balanced', 'power', 'lazy', a function, or ({hierarchy.num_nodes},) "
        "numbers, one for each node of the hierarchy"
    )
    if isinstance(weights, str):
        raise ValueError(f"{expected}; got {weights!r}")
    if isinstance(weights, Tensor):
        weights = weights.detach().cpu().double().numpy()
    of_nodes = np.array(weights, np.float64)
    if of_nodes.shape != (hierarchy.num_nodes,):
        raise ValueError(f"{expected}; got shape {of_nodes.shape}")
    return NodeWeights(of_nodes)
