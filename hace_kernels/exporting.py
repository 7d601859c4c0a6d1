"""How a model that leaves PyTorch's eager mode is traced, and the ops in plain PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

__all__ = [
    "add_decomposition",
    "decompositions",
    "in_onnx_export",
    "is_exported",
    "is_exporting",
    "is_traced",
]

#: Whether `torch.jit.trace` is running.
is_traced = torch._C._is_tracing


def in_onnx_export() -> bool:
    """Whether `torch.onnx.export` is running, with either of its exporters."""
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()


# The effect of torch.compiler.assume_constant_result, which would take 1.6 s to import.
in_onnx_export._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_exporting() -> bool:
    """Whether `torch.export` is running.

    In the graphs of torch 2.11, `torch.compiler.is_exporting()` is always True. This function is
    marked as constant: it is called while a graph is made, and so gives what is true then.
    """
    return torch.compiler.is_exporting()


is_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_exported() -> bool:
    """Whether a graph is traced that has to serve batches of any size, not only of this one's."""
    return is_exporting() if torch.compiler.is_compiling() else is_traced()


#: Each op in plain PyTorch, by its name; the modules of `hace_kernels.ops` fill it.
_PLAIN: dict[str, Callable[..., Any]] = {}


def add_decomposition(name: str, plain: Callable[..., Any]) -> None:
    """Adds the decomposition of an op into plain PyTorch."""
    _PLAIN[name] = plain


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The ops in plain PyTorch, for `torch.export.ExportedProgram.run_decompositions`.

    `torch.export` and AOTInductor keep this package's ops in their graphs, which then run only
    where the package is imported. After

        program = torch.export.export(model, (x,))
        program = program.run_decompositions(hace_kernels.decompositions())

    a program needs only PyTorch. (`torch.onnx.export` does this by itself.)
    """
    return {getattr(torch.ops.hace_kernels, name).default: op for name, op in _PLAIN.items()}
