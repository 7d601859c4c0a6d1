"""Which implementations of the ops can run here, and which one a call gets."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from . import layout, native, triton
from .registry import IMPLEMENTATIONS, Implementation

__all__ = [
    "Backend",
    "BackendError",
    "asked_backend",
    "backends",
    "choose",
    "device_type",
    "resolve",
]

NAMES = ("reference", "cpu", "triton", "cuda")
_KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run; the message says what would make it run.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "vehicle/car"])
        >>> loss_fn = hace.HACELoss(tree, backend="cuda")
        >>> loss_fn(torch.zeros(1, 2), torch.tensor([0]))
        Traceback (most recent call last):
            ...
        hace_kernels.backends.BackendError: ...
    """


@dataclass(frozen=True)
class Backend:
    """One implementation of the ops.

    Attributes:
        reason: what the backend is if it is available; otherwise what it lacks.

    Examples:
        >>> from hace_kernels import backends
        >>> [backend.name for backend in backends().values()]
        ['reference', 'cpu', 'triton', 'cuda']
    """

    name: str
    available: bool
    reason: str


def backends() -> dict[str, Backend]:
    """All backends by name; each says whether it can run on this machine, and why (not).

    Examples:
        >>> from hace_kernels import backends
        >>> reference = backends()["reference"]
        >>> reference.available, reference.reason
        (True, 'pure PyTorch, any device and floating dtype')
    """
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
    """The device type that a backend works on; "cpu" for the reference, which works on any."""
    types = {"triton": triton.device_type, "cuda": native.cuda_device_type}
    return types.get(name, "cpu")


def resolve(op: str, backend: str, rows: Tensor) -> Implementation:
    """The implementation that a call of an op with `backend=backend` uses for these rows.

    `"auto"` picks the fastest backend that is built, has the op and supports device and dtype. The
    environment variable `HACE_BACKEND` overrides "auto", and only that.

    Raises:
        ValueError: the name is unknown.
        BackendError: a backend named by the caller or by `HACE_BACKEND` cannot run.
    """
    backend = asked_backend(backend)
    if torch.compiler.is_compiling():  # the tracer would guard on the whole of `_resolved`
        return IMPLEMENTATIONS[op][choose(op, backend, rows.device, rows.dtype)]
    key = (op, backend, rows.device, rows.dtype)
    if key not in _resolved:
        _resolved[key] = IMPLEMENTATIONS[op][choose(op, backend, rows.device, rows.dtype)]
    return _resolved[key]


def asked_backend(backend: str) -> str:
    """The backend's name, with the value of `HACE_BACKEND` in the place of "auto"."""
    if backend != "auto":
        return backend
    # A missing key of os.environ costs an exception: 6 % of the time of a small cross-entropy.
    return os.environ["HACE_BACKEND"] if _VARIABLE in _environment else "auto"


_environment = getattr(os.environ, "_data", os.environ)
_VARIABLE = (
    os.environ.encodekey("HACE_BACKEND") if _environment is not os.environ else "HACE_BACKEND"
)


_resolved: dict[tuple[str, str, torch.device, torch.dtype], Implementation] = {}


def choose(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """The name of the backend that `resolve` picks, with the same errors."""
    backend = asked_backend(backend)
    if backend == "auto":
        return next(name for name in _PREFERENCE if _lack(op, name, device, dtype) is None)
    if backend not in NAMES:
        raise ValueError(f"unknown backend {backend!r}: choose one of 'auto', {str(NAMES)[1:-1]}")
    lack = _lack(op, backend, device, dtype)
    if lack is not None:
        raise BackendError(f"backend {backend!r} cannot run: {lack}")
    return backend


#: What "auto" tries, in this order. The two for GPUs have not been timed against each other yet:
#: CUDA C++ comes first because it compiles nothing at run time.
_PREFERENCE = ("cpu", "cuda", "triton", "reference")


def _lack(op: str, name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps a backend from running an op on this device and dtype, or None."""
    if name == "reference":
        return None
    missing = _lack_here(name)
    if missing is not None:
        return missing
    if name not in IMPLEMENTATIONS[op]:
        return f"it does not have {op}; use backend='auto'"
    takes = device_type(name)
    if device.type != takes:
        kind = {"cpu": "CPU", "cuda": "GPU"}[takes]
        return f"it takes {kind} tensors, but the logits are on {device}; use backend='auto'"
    if name == "cuda" and (missing := native.cuda_lack_on(device)) is not None:
        return missing
    if dtype not in _KERNEL_DTYPES:
        return f"it takes {', '.join(map(str, _KERNEL_DTYPES))}, but the logits are {dtype}"
    return None
