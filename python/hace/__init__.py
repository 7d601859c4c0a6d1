"""Hierarchical classification losses for PyTorch, on fused kernels."""

from importlib.metadata import PackageNotFoundError, version

from hace_kernels import Backend, BackendError, backends

from . import decode, functional, metrics, nn, optim
from .checkpoints import allow_loading as _allow_loading
from .hierarchy import Hierarchy
from .losses import (
    CrossEntropyLoss,
    HACELoss,
    HXELoss,
    LayeredCrossEntropyLoss,
    PathLogLoss,
    RegularizedCrossEntropyLoss,
    SoftLabelLoss,
)
from .predict import predict
from .report import Report, report

__all__ = [
    "Backend",
    "BackendError",
    "CrossEntropyLoss",
    "HACELoss",
    "HXELoss",
    "Hierarchy",
    "LayeredCrossEntropyLoss",
    "PathLogLoss",
    "RegularizedCrossEntropyLoss",
    "Report",
    "SoftLabelLoss",
    "__version__",
    "backends",
    "decode",
    "functional",
    "metrics",
    "nn",
    "optim",
    "predict",
    "report",
]

_allow_loading()

try:
    __version__ = version("hace-kernels")
except PackageNotFoundError:  # a checkout that nobody installed
    __version__ = "0+unknown"
