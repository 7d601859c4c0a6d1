"""Which implementations an op has: op → backend → callable.

All implementations of an op take the same arguments: those of `hace_kernels.schemas`. The modules
of `hace_kernels.ops` register them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["IMPLEMENTATIONS", "Implementation", "register"]

Implementation = Callable[..., Any]

IMPLEMENTATIONS: dict[str, dict[str, Implementation]] = {}


def register(op: str, implementations: dict[str, Implementation]) -> None:
    """Gives an op its implementations by backend."""
    IMPLEMENTATIONS.setdefault(op, {}).update(implementations)
