"""The losses as modules, drop-ins for `torch.nn.CrossEntropyLoss`."""

from .cross_entropy import CrossEntropyLoss
from .hace_loss import HACELoss
from .hierarchical_cross_entropy import HierarchicalCrossEntropyLoss
from .hxe import HXELoss
from .path_log_loss import PathLogLoss
from .regularized_cross_entropy import RegularizedCrossEntropyLoss
from .soft_label import SoftLabelLoss

__all__ = [
    "CrossEntropyLoss",
    "HACELoss",
    "HXELoss",
    "HierarchicalCrossEntropyLoss",
    "PathLogLoss",
    "RegularizedCrossEntropyLoss",
    "SoftLabelLoss",
]
