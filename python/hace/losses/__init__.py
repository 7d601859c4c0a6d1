"""The losses as modules, drop-ins for `torch.nn.CrossEntropyLoss`."""

from .cross_entropy import CrossEntropyLoss
from .hace_loss import HACELoss
from .hxe import HXELoss
from .layered_cross_entropy import LayeredCrossEntropyLoss
from .path_log_loss import PathLogLoss
from .regularized_cross_entropy import RegularizedCrossEntropyLoss
from .soft_label import SoftLabelLoss

__all__ = [
    "CrossEntropyLoss",
    "HACELoss",
    "HXELoss",
    "LayeredCrossEntropyLoss",
    "PathLogLoss",
    "RegularizedCrossEntropyLoss",
    "SoftLabelLoss",
]
