"""Loads the compiled torch ops, if they were built.

The library contains plain C++ and, if nvcc was found, CUDA, behind torch's stable ABI. It is not a
Python module: `torch.ops.load_library` loads it, and its ops appear under
`torch.ops.hace_kernels`, for CPU and for CUDA tensors.

`HACE_NATIVE_LIBRARY=/path/library.so` loads another build of it, such as one with sanitizers.
`HACE_CUDA_EMULATION=/path/library.so` loads a library in which the CUDA kernels are compiled for
the CPU and take CPU tensors. That is slow and meant for tests (tests/cuda_kernels/emulation/).
"""

from __future__ import annotations

import ctypes
import os
import warnings
from functools import cache
from pathlib import Path

import torch

from . import schemas  # noqa: F401  (defines the ops that the library implements)
from .missing_library import why_missing

__all__ = [
    "LIBRARY",
    "cpu_lack",
    "cuda_device_type",
    "cuda_lack",
    "cuda_lack_on",
    "emulated",
    "load_error",
]

emulated = "HACE_CUDA_EMULATION" in os.environ

LIBRARY = Path(
    os.environ.get("HACE_CUDA_EMULATION")
    or os.environ.get("HACE_NATIVE_LIBRARY")
    or Path(__file__).with_name("_native.so")
)

#: The device type of the tensors that the CUDA kernels take.
cuda_device_type = "cpu" if emulated else "cuda"


def _load() -> str | None:
    """Loads the library; returns why it could not, or None."""
    if not LIBRARY.exists():
        if emulated:
            return f"HACE_CUDA_EMULATION names {LIBRARY}, which does not exist"
        return why_missing(LIBRARY)
    try:
        torch.ops.load_library(str(LIBRARY))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        return (
            f"{LIBRARY.name} does not load into torch {torch.__version__} (torch >= 2.11 is "
            f"needed; rebuild with `pip install --no-build-isolation .`): {error}"
        )
    return None


load_error: str | None = _load()

if load_error is not None:
    warnings.warn(
        f"hace_kernels runs on its slow PyTorch reference: {load_error}",
        RuntimeWarning,
        stacklevel=2,
    )

_has_cuda_kernels: bool = load_error is None and (
    torch._C._dispatch_has_kernel_for_dispatch_key(
        "hace_kernels::scale_in_place", cuda_device_type.upper()
    )
)


def cpu_lack() -> str | None:
    """What keeps the C++ kernels from running, or None."""
    if load_error is None and emulated:
        return "HACE_CUDA_EMULATION puts the emulated CUDA kernels in its place"
    return load_error


def cuda_lack() -> str | None:
    """What keeps the CUDA kernels from running on this machine, or None."""
    if load_error is not None:
        return load_error
    if not _has_cuda_kernels:
        return (
            f"{LIBRARY.name} was built without CUDA: install the CUDA toolkit (nvcc) and run "
            "`HACE_BUILD=cuda pip install --no-build-isolation .`"
        )
    if not emulated and not torch.cuda.is_available():
        return "torch finds no GPU"
    return None


def cuda_lack_on(device: torch.device) -> str | None:
    """What keeps the CUDA kernels from running on a GPU, or None: they are compiled for some."""
    if emulated:
        return _lack_on(-1)
    return _lack_on(torch.cuda.current_device() if device.index is None else device.index)


# The effect of torch.compiler.assume_constant_result, which would take 1.6 s to import.
cuda_lack_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _lack_on(index: int) -> str | None:
    lack_of = ctypes.CDLL(str(LIBRARY)).hace_cuda_lack
    lack_of.restype = ctypes.c_char_p
    with torch.cuda.device(index):
        error: bytes | None = lack_of()
    if error is None:
        return None
    gpu = "the emulated GPU" if emulated else torch.cuda.get_device_name(index)
    return (
        f"{LIBRARY.name} does not run on {gpu} ({error.decode()}): install the CUDA toolkit (nvcc) "
        "and run `HACE_BUILD=cuda pip install --no-build-isolation .`, which compiles it for the "
        "GPUs at hand"
    )
