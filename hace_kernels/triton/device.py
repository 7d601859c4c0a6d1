"""Launches on the device that the tensors are on."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["on_its_device"]

P = ParamSpec("P")
R = TypeVar("R")


def on_its_device(
    launch: Callable[Concatenate[Tensor, P], R],
) -> Callable[Concatenate[Tensor, P], R]:
    """Makes the device of the first argument the current one while `launch` runs.

    Triton launches a kernel on the current device and on that one's current stream, wherever the
    kernel's pointers lead. PyTorch changes the current device for its own ops, and not for these.
    """

    @wraps(launch)
    def on_device(first: Tensor, /, *others: P.args, **named: P.kwargs) -> R:
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
            return launch(first, *others, **named)

    return on_device
