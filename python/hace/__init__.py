"""Hierarchical classification losses for PyTorch, on fused kernels."""

from hace_kernels import Backend, BackendError, backends

from . import functional, metrics
from .hierarchy import Hierarchy
from .losses import HACELoss

__all__ = [
    "Backend",
    "BackendError",
    "HACELoss",
    "Hierarchy",
    "backends",
    "functional",
    "metrics",
]
