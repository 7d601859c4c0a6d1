"""Which implementations of the ops can run here, and which one a call gets."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from . import layout, native, triton

__all__ = ["Backend", "BackendError", "backends", "device_type", "resolve"]

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
    what = {
        "reference": "pure PyTorch, any device and floating dtype",
        "cpu": _of_cpu(),
        "triton": _of_triton(),
        "cuda": f"compiled CUDA kernels for {native.cuda_device_type.upper()} tensors",
    }
    lacks = {name: _lack_here(name) for name in NAMES}
    return {name: Backend(name, lacks[name] is None, lacks[name] or what[name]) for name in NAMES}


def _lack_here(name: str) -> str | None:
    """What keeps a backend from running on this machine, or None."""
    if name == "cpu":
        return native.cpu_lack()
    if name == "cuda":
        return native.cuda_lack()
    return triton.lack() if name == "triton" else None


def _of_cpu() -> str:
    if layout.cpu_capability() is None:
        return "compiled C++ for CPU tensors; trees in NumPy (_layout is not built for this Python)"
    return "compiled C++ for CPU tensors"


def _of_triton() -> str:
    where = "in its interpreter for CPU tensors" if triton.interpreted else "for GPU tensors"
    return f"Triton kernels, {where}"


def device_type(name: str) -> str:
    """Of the tensors that a backend takes; "cpu" for the reference, which takes all."""
    types = {"triton": triton.device_type, "cuda": native.cuda_device_type}
    return types.get(name, "cpu")


def resolve(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that a call with `backend=name` uses for this device and dtype.

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


#: What "auto" tries, in order. A GPU's two have not been timed against each other yet: CUDA C++ is
#: first because it compiles nothing at run time.
_PREFERENCE = ("cpu", "cuda", "triton")


def _fastest(device: torch.device, dtype: torch.dtype) -> str:
    for name in _PREFERENCE:
        if _lack(name, device, dtype) is None:
            return name
    return "reference"


def _lack(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps a backend from running on this device and dtype, or None."""
    if name == "reference":
        return None
    missing = _lack_here(name)
    if missing is not None:
        return missing
    takes = device_type(name)
    if device.type != takes:
        kind = {"cpu": "CPU", "cuda": "GPU"}[takes]
        return f"it takes {kind} tensors and the logits are on {device}; use backend='auto'"
    if dtype not in _KERNEL_DTYPES:
        return f"it takes {', '.join(map(str, _KERNEL_DTYPES))} and the logits are {dtype}"
    return None
