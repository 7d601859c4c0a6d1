"""Hierarchical cross-entropy of conditional probabilities."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from ..checks import as_finite, check_choice
from ..hierarchy import Hierarchy
from ..options import LossOptions, Reduction
from ..spaces import LogitSpace, TargetSpace
from ..tables import Tables
from ..weights import HXEWeights
from .path_loss import PathLoss, check_tree

__all__ = ["HXELoss"]


class HXELoss(PathLoss):
    """HXE: cross-entropy at every step down the tree, `L = −Σ_v λ_v log(P_v / P_parent(v))`.

    v runs over the target's path, `λ_v = exp(−α · depth)`, and the parent of a root has probability
    1. λ falls with the depth, so that mistakes near the root cost most; with α = 0 it is
    cross-entropy. Source: Bertinetto et al., *Making Better Mistakes*, CVPR 2020, section 3.1,
    where it is called hierarchical cross-entropy, a name that other papers give to other losses.

    Args:
        hierarchy: of the classes; a tree or forest.
        alpha: α.
        depth: "node", the depth of v, 0 at a root; or "parent", one less, which multiplies the loss
            by exp(α).
        normalize: divide the λ by their sum over all nodes, as the authors' code does. A class at
            an inner node counts as a leaf under it.
        logit_space, target_space, weight, ignore_index, reduction, eps, backend: as in
            `hace.HACELoss`. Targets are indices.

    Raises:
        ValueError: at construction: an option outside its range; at call: shapes that do not fit,
            or a target that is not an index.
        TypeError, IndexError, hace.BackendError, MemoryError: as `hace.HACELoss`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> target = torch.tensor([1, 2])  # a dog and a car
        >>> hace.HXELoss(tree, alpha=0.5)(logits, target)
        tensor(0.5304)
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        alpha: float = 0.1,
        *,
        depth: Literal["node", "parent"] = "node",
        normalize: bool = False,
        logit_space: LogitSpace = "classes",
        target_space: TargetSpace = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        eps: float = 0.0,
        backend: str = "auto",
    ) -> None:
        check_tree(hierarchy, "HXELoss")
        alpha = as_finite("alpha", alpha)
        check_choice("depth", depth, ("node", "parent"))
        scale = 1.0
        if normalize:  # the two conventions differ by a factor, which cancels
            depths = Tables.of(hierarchy).labels.links.depths
            scale = 1 / float(np.exp(-alpha * depths).sum())
        elif depth == "parent":
            scale = float(np.exp(alpha))
        self.depth, self.normalize = depth, normalize
        options = LossOptions.of(
            logit_space=logit_space,
            target_space=target_space,
            ignore_index=ignore_index,
            reduction=reduction,
            eps=eps,
            backend=backend,
        )
        super().__init__(hierarchy, HXEWeights(alpha, scale), options, weight)

    @property
    def alpha(self) -> float:
        """α."""
        assert isinstance(self.path_weights, HXEWeights)
        return self.path_weights.alpha

    def _own_repr(self) -> str:
        return f"alpha={self.alpha}, depth={self.depth!r}, normalize={self.normalize}"
