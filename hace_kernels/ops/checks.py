"""What the ops check of their arguments, and how the native checks' messages reach Python users."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import BackendError, resolve
from ..closure_table import ClosureTable
from ..tree_table import TreeTable

__all__ = [
    "REDUCTIONS",
    "check_options",
    "check_rows",
    "for_kernel",
    "gradient_in_forward",
    "no_grad_of",
    "resolve_for",
    "translated",
]

REDUCTIONS = ("none", "mean", "sum")


def check_rows(name: str, x: Tensor, width: int, columns: str) -> None:
    """Raises unless x is floating and (B, width)."""
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if x.dim() != 2 or x.shape[1] != width:
        raise ValueError(
            f"{name} must be (B, {width}), one column a {columns}; got {tuple(x.shape)}"
        )


def check_options(reduction: str, eps: float, entropy: float = 0.0) -> None:
    """Raises ValueError unless all have a meaning."""
    if not abs(entropy) < float("inf"):
        raise ValueError(f"entropy must be a finite number, got {entropy!r}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be 0 or a small positive number, got {eps!r}")


def for_kernel(x: Tensor) -> Tensor:
    """Rows as the kernels take them: any stride from row to row, none along a row."""
    return x if x.stride(1) == 1 else x.contiguous()


def translated(error: RuntimeError) -> Exception:
    """The native check's message as the exception that Python users expect."""
    message = str(error)
    for sign in (" is out of range: ", " has no class at or below it"):
        if sign in message:
            start = message.rindex("target ", 0, message.index(sign))
            return IndexError(message[start:].splitlines()[0])
    return error


def gradient_in_forward(logits: Tensor, reduction: str) -> bool:
    """Whether the gradient is best made while the row is in the cache for the loss.

    It is made for an incoming gradient of 1. Where rows have incoming gradients of their own, and
    in float16, where a loss scaler's factor must come in before rounding, the backward makes it.
    """
    return (
        logits.requires_grad
        and torch.is_grad_enabled()
        and reduction != "none"
        and logits.dtype != torch.float16
    )


def resolve_for(tree: TreeTable | ClosureTable, backend: str, rows: Tensor) -> str:
    """The backend of an op over a whole tree or DAG; no kernel does DAGs."""
    if isinstance(tree, TreeTable):
        return resolve(backend, rows.device, rows.dtype)
    if backend not in ("auto", "reference"):
        raise BackendError(
            f"backend {backend!r} does not do DAGs, whose nodes have several parents: use "
            "backend='auto'"
        )
    return "reference"


def no_grad_of(arg: object) -> list[None] | None:
    """An argument's gradient where it has none: torch.library wants lists for lists of tensors."""
    if isinstance(arg, list) and all(isinstance(item, Tensor) for item in arg):
        return [None] * len(arg)
    return None
