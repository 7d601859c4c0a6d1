"""Cross-entropy with any node of the hierarchy as target."""

from __future__ import annotations

from torch import Tensor

from ..hierarchy import Columns, Hierarchy, Space
from ..options import LossOptions, Reduction, Smoothing
from ..weights import HACEWeights
from .path_loss import PathLoss

__all__ = ["CrossEntropyLoss"]


class CrossEntropyLoss(PathLoss):
    """Cross-entropy `−log P_y`, where the target y may be any node of the hierarchy.

    For a leaf class it is `nn.CrossEntropyLoss`; for an inner node (`targets="nodes"`) it is the
    log-loss of the node's whole subtree, the HCE of Cultrera di Montesano et al. 2025. It is
    `hace.HACELoss` with dilution 1, whose arguments, shapes and errors it has.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        logits: Columns = "classes",
        targets: Space = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        smoothing: Smoothing = "uniform",
        eps: float = 0.0,
        backend: str = "auto",
    ) -> None:
        options = LossOptions(
            logits,
            targets,
            ignore_index,
            reduction,
            label_smoothing,
            smoothing,
            eps=eps,
            backend=backend,
        )
        super().__init__(hierarchy, HACEWeights(1.0), options, weight)
