"""Cross-entropy with distance-based soft labels."""

from __future__ import annotations

from torch import Tensor

from ..checks import as_finite
from ..hierarchy import Hierarchy
from ..options import Distance, LossOptions, Reduction, Smoothing
from ..spaces import LogitSpace, TargetSpace
from ..weights import HACEWeights
from .path_loss import PathLoss

__all__ = ["SoftLabelLoss"]


class SoftLabelLoss(PathLoss):
    """Cross-entropy with soft labels, `−Σ_c q_c log p_c` with `q_c ∝ exp(−β · dist(c, y))`.

    dist is the height of the lowest common ancestor divided by the height of the tree. Source:
    Bertinetto et al., *Making Better Mistakes*, CVPR 2020, section 3.2, where it is called "soft
    labels"; later papers call it hierarchical label smoothing or hierarchy-aware label embedding.
    It is `hace.HACELoss` with dilution 1 and `soft_label_beta=β`; its other arguments, shapes and
    errors are the same.

    Args:
        hierarchy: of the classes; a tree or forest.
        beta: β; from 4 (soft) to 30 (almost hard) in the paper.
        distance: "height", or "depth", as `soft_label_distance` there.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> target = torch.tensor([1, 2])  # a dog and a car
        >>> hace.SoftLabelLoss(tree, beta=4.0)(logits, target)
        tensor(0.7822)
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        beta: float = 10.0,
        *,
        distance: Distance = "height",
        logit_space: LogitSpace = "classes",
        target_space: TargetSpace = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        smoothing: Smoothing = "uniform",
        eps: float = 0.0,
        backend: str = "auto",
    ) -> None:
        beta = as_finite("beta", beta)
        if beta < 0:
            raise ValueError(f"beta must not be negative, got {beta!r}")
        options = LossOptions.of(
            logit_space=logit_space,
            target_space=target_space,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            smoothing=smoothing,
            soft_label_beta=beta,
            soft_label_distance=distance,
            eps=eps,
            backend=backend,
        )
        super().__init__(hierarchy, HACEWeights(1.0), options, weight)
