"""Where the classes are in a batch, by PyTorch's conventions: (C), (N, C) or (N, C, d1, …)."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["class_dim", "to_rows", "to_rows_or_pixels"]


def class_dim(x: Tensor) -> int:
    """0 for an unbatched (C), else 1."""
    return 0 if x.dim() == 1 else 1


def to_rows(x: Tensor) -> Tensor:
    """(C), (N, C) or (N, C, d1, …) to rows (N·d1·…, C); a view where the memory allows it.

    Raises:
        TypeError: a DTensor, which only losses over paths take.
    """
    if hasattr(x, "device_mesh"):
        raise TypeError(
            "only losses over paths, such as HACELoss, take logits that are DTensors: give "
            "logits.full_tensor() here; or topk, predict and node_log_probs of a "
            "HierarchicalClassifier with a device_mesh answer without whole logits"
        )
    if x.dim() == 2:
        return x
    dim = class_dim(x)
    num_rows = math.prod(x.shape[:dim] + x.shape[dim + 1 :])
    return x.movedim(dim, -1).reshape(num_rows, x.shape[dim])


#: Fewer pixels than this do not fill a cache line; they are copied to rows.
_FEWEST_PIXELS = 16


def to_rows_or_pixels(x: Tensor) -> Tensor:
    """Pixels (N, C, d1·d2·…) where these, not the classes, are contiguous in memory; else rows."""
    if x.dim() <= 2 or x.stride(1) == 1 or math.prod(x.shape[2:]) < _FEWEST_PIXELS:
        return to_rows(x)
    return x.flatten(2)
