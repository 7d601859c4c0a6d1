"""The kernels of NVIDIA and AMD GPUs, in Triton: one file per op, as in csrc/cpu/.

docs/design.md explains the words that they use.

Triton is optional and takes half a second to import. So it is imported only where torch is built
for a GPU, or where `TRITON_INTERPRET=1` asks for Triton's interpreter, which runs the kernels on
CPU tensors (slowly: it is for tests).
"""

from __future__ import annotations

import os

import torch

from .. import schemas  # noqa: F401  (defines the ops that the kernels implement)

__all__ = ["device_type", "interpreted", "lack", "load_error"]

interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")

#: The device type of the tensors that the kernels take; torch calls AMD's GPUs "cuda" too.
device_type = "cpu" if interpreted else "cuda"


def _load() -> str | None:
    """Registers the ops; returns why it could not, or None."""
    if not interpreted and torch.version.cuda is None and torch.version.hip is None:
        return (
            f"torch {torch.__version__} is built for CPUs only: install a CUDA or ROCm build of "
            "torch (TRITON_INTERPRET=1 runs the kernels on CPU tensors, slowly, for tests)"
        )
    try:
        from . import dag_log_loss, path_log_loss, tree_log_loss, tree_log_prob, tree_sum
        from .device import on_its_device
    except ImportError as error:
        return f"Triton cannot be imported: `pip install triton` ({error})"
    library = torch.library.Library("hace_kernels", "IMPL")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    key = "CPU" if interpreted else "CUDA"
    for module in (path_log_loss, tree_log_loss, dag_log_loss, tree_log_prob, tree_sum):
        for name, implementation in module.OPS.items():
            launch = on_its_device(implementation)
            library.impl(f"triton_{name}", launch, key)  # type: ignore[no-untyped-call]
    return None


# The implementations are unregistered when their library is freed.
_libraries: list[torch.library.Library] = []

load_error: str | None = _load()


def lack() -> str | None:
    """What keeps the kernels from running on this machine, or None."""
    if load_error is not None or interpreted:
        return load_error
    if not torch.cuda.is_available():
        return (
            "torch finds no GPU (TRITON_INTERPRET=1 runs the kernels on CPU tensors, slowly, for "
            "tests)"
        )
    return None
