"""Which implementations of the ops can run here, and which one a call gets."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from . import native

__all__ = ["Backend", "BackendError", "backends", "resolve"]

NAMES = ("reference", "cpu", "triton", "cuda")
_KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run; the message says what would make it run."""


@dataclass(frozen=True)
class Backend:
    """One implementation of the ops.

    `reason` says what the backend is where it is available, and otherwise what it lacks.
    """

    name: str
    available: bool
    reason: str


def backends() -> dict[str, Backend]:
    """Every backend by name, with its availability on this machine and the reason."""
    cpu = native.load_error is None
    found = (
        Backend("reference", True, "pure PyTorch, any device and floating dtype"),
        Backend("cpu", cpu, "compiled C++ for CPU tensors" if cpu else str(native.load_error)),
        Backend("triton", False, "the Triton kernels are not part of this release"),
        Backend("cuda", False, "the CUDA kernels are not part of this release"),
    )
    return {backend.name: backend for backend in found}


def resolve(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that a call with `backend=name` uses for logits of this device and dtype.

    `"auto"` takes the fastest that is built and fits; `HACE_BACKEND` in the environment overrides
    auto, and only auto.

    Raises:
        ValueError: the name is unknown.
        BackendError: a backend named by the caller or by `HACE_BACKEND` cannot run.
    """
    if name == "auto":
        name = os.environ.get("HACE_BACKEND", "auto")
        if name == "auto":
            return _fastest(device, dtype)
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}: choose one of 'auto', {str(NAMES)[1:-1]}")
    lack = _lack(name, device, dtype)
    if lack is not None:
        raise BackendError(f"backend {name!r} cannot run: {lack}")
    return name


def _fastest(device: torch.device, dtype: torch.dtype) -> str:
    return "cpu" if _lack("cpu", device, dtype) is None else "reference"


def _lack(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps a backend from running on this device and dtype, or None."""
    if name == "reference":
        return None
    if name != "cpu":
        return backends()[name].reason
    if native.load_error is not None:
        return native.load_error
    if device.type != "cpu":
        return f"it takes CPU tensors and the logits are on {device}; use backend='auto'"
    if dtype not in _KERNEL_DTYPES:
        return f"it takes {', '.join(map(str, _KERNEL_DTYPES))} and the logits are {dtype}"
    return None
