"""Kernels of hierarchical classification losses, as ops on plain tensors and CSR arrays."""

from .backends import Backend, BackendError, backends, require_reference
from .ops import path_log_loss
from .path_table import PathTable

__all__ = ["Backend", "BackendError", "PathTable", "backends", "path_log_loss", "require_reference"]
