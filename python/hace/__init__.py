"""Hierarchical classification losses for PyTorch, on fused kernels."""

from hace_kernels import Backend, BackendError, backends

from . import functional, metrics, nn
from .dag import DAG
from .hierarchy import Hierarchy
from .losses import (
    CrossEntropyLoss,
    HACELoss,
    HierarchicalCrossEntropyLoss,
    HXELoss,
    PathLogLoss,
    RegularizedCrossEntropyLoss,
    SoftLabelLoss,
)
from .predict import predict

__all__ = [
    "DAG",
    "Backend",
    "BackendError",
    "CrossEntropyLoss",
    "HACELoss",
    "HXELoss",
    "HierarchicalCrossEntropyLoss",
    "Hierarchy",
    "PathLogLoss",
    "RegularizedCrossEntropyLoss",
    "SoftLabelLoss",
    "backends",
    "functional",
    "metrics",
    "nn",
    "predict",
]
