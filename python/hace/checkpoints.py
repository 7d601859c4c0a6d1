"""What `torch.load` may make with its default, `weights_only=True`.

A hierarchy and what is built on one are data: their state is bytes, numbers, strings and tensors,
and loading checks it.
"""

from __future__ import annotations

import torch

from . import losses, nn, weights
from .hierarchy import Hierarchy
from .options import LossOptions, TargetOptions

__all__ = ["allow_loading"]


def allow_loading() -> None:
    """Tells torch which classes of this package are only data."""
    torch.serialization.add_safe_globals(
        [
            Hierarchy,
            LossOptions,
            TargetOptions,
            weights.HACEWeights,
            weights.HXEWeights,
            *(getattr(losses, name) for name in losses.__all__),
            nn.HierarchicalClassifier,
            nn.TreeLinear,
            torch.nn.Linear,  # a part of the classifier
        ]
    )
