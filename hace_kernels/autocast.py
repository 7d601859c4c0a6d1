"""Autocast as it stands at a call, also in graphs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["is_autocasting", "without_autocast"]


def is_autocasting(device: str) -> bool:
    """Whether autocast is on for this type of device; False for one that has none."""
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products have the dtypes of their operands."""
    if not _has_autocast(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


# torch.compile of 2.11 cannot trace this. For a type of device it is the same at every call.
_has_autocast._dynamo_marked_constant = True  # type: ignore[attr-defined]
