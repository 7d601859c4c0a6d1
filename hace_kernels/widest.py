"""The widest floating dtype of a device, in which weights are kept and sums are added up.

It is float64 on most devices. Some do not have it (Apple's MPS), and creating a float64 tensor
there is an error, so no code may name that dtype itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["moved", "widened", "widest_dtype"]

#: The types of devices whose tensors cannot be float64.
WITHOUT_FLOAT64 = frozenset({"mps"})


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def widened(x: Tensor) -> Tensor:
    """The tensor in the widest dtype of its device."""
    return x.to(widest_dtype(x.device))


def moved(x: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; float64 becomes the widest dtype that the device has."""
    dtype = widest_dtype(torch.device(device)) if x.dtype == torch.float64 else x.dtype
    return x.to(device=device, dtype=dtype)
