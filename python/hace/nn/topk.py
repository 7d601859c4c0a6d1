"""What the layers answer when asked for the most probable classes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["TopK"]


class TopK(NamedTuple):
    """The most probable classes of each row.

    Attributes:
        log_prob: (N, k), largest first.
        label: int64 (N, k).
    """

    log_prob: Tensor
    label: Tensor
