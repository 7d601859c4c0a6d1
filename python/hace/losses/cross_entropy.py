"""Cross-entropy with any node of the hierarchy as target."""

from __future__ import annotations

from torch import Tensor

from ..hierarchy import Hierarchy
from ..options import LossOptions, Reduction, Smoothing
from ..spaces import LogitSpace, TargetSpace
from ..weights import HACEWeights
from .path_loss import PathLoss

__all__ = ["CrossEntropyLoss"]


class CrossEntropyLoss(PathLoss):
    """Cross-entropy `−log P_y`, where the target y may be any node of the hierarchy.

    For a class it is `nn.CrossEntropyLoss`; for a node (`target_space="nodes"`) it is the log-loss
    of the node's whole subtree. It is `hace.HACELoss` with dilution 1 and has the same arguments,
    shapes and errors.

    Other names: HCE in Cultrera di Montesano et al. 2025; the marginal or coarse-label likelihood
    in papers on partial and coarse labels.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> target = torch.tensor([1, 2])  # a dog and a car
        >>> hace.CrossEntropyLoss(tree)(logits, target)
        tensor(0.7887)
        >>> torch.nn.functional.cross_entropy(logits, target)
        tensor(0.7887)
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
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
        options = LossOptions.of(
            logit_space=logit_space,
            target_space=target_space,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            smoothing=smoothing,
            eps=eps,
            backend=backend,
        )
        super().__init__(hierarchy, HACEWeights(1.0), options, weight)
