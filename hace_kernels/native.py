"""Loads the compiled torch ops, where they were built.

The library holds plain C++ (and, where nvcc was there, CUDA) behind torch's stable ABI: it is no
Python module, so `torch.ops.load_library` brings it in and its ops appear under
`torch.ops.hace_kernels`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

LIBRARY = Path(__file__).with_name("_native.so")


def _load() -> str | None:
    """Loads the library; returns why it could not, or None."""
    if not LIBRARY.exists():
        return (
            f"{LIBRARY.name} was not built: install a C++17 compiler and run "
            "`pip install --no-build-isolation .` (HACE_REQUIRE_NATIVE=1 shows what fails)"
        )
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
