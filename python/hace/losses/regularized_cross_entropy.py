"""Cross-entropy with a penalty on confidence."""

from __future__ import annotations

from torch import Tensor

from ..checks import as_finite
from ..hierarchy import Hierarchy
from ..options import LossOptions, Reduction
from ..spaces import LogitSpace, TargetSpace
from ..weights import HACEWeights
from .path_loss import PathLoss, check_tree

__all__ = ["RegularizedCrossEntropyLoss"]


class RegularizedCrossEntropyLoss(PathLoss):
    """r-CE: cross-entropy minus λ times the entropy, `L = −log P_y + λ Σ_c p_c log p_c`.

    c runs over the columns of the logits; both terms come from one pass over them. Source: the
    poster "Loss in Layers". As with cross-entropy, a target may be any node. Other papers call the
    second term a confidence penalty (Pereyra et al. 2017) or entropy regularization.

    Args:
        hierarchy: of the classes; a tree or forest.
        strength: λ; above 0 it rewards entropy.
        logit_space, target_space, weight, ignore_index, reduction, backend: as in `hace.HACELoss`;
            a weight multiplies both terms. Targets are indices.

    Raises:
        ValueError: at construction: an option outside its range; at call: shapes that do not fit,
            or a target that is not an index.
        TypeError, IndexError, hace.BackendError, MemoryError: as `hace.HACELoss`.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> target = torch.tensor([1, 2])  # a dog and a car
        >>> hace.RegularizedCrossEntropyLoss(tree, strength=0.1)(logits, target)
        tensor(0.7209)
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        strength: float = 0.1,
        *,
        logit_space: LogitSpace = "classes",
        target_space: TargetSpace = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        backend: str = "auto",
    ) -> None:
        check_tree(hierarchy, "RegularizedCrossEntropyLoss")
        options = LossOptions.of(
            logit_space=logit_space,
            target_space=target_space,
            ignore_index=ignore_index,
            reduction=reduction,
            backend=backend,
            entropy=as_finite("strength", strength),
        )
        super().__init__(hierarchy, HACEWeights(1.0), options, weight)

    @property
    def strength(self) -> float:
        """λ."""
        return self.options.entropy
