"""The paths of a batch's rows, taken from a path table, for the stages on tiles of columns.

A table over millions of targets takes gigabytes; the paths of B rows take a few kilobytes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .widest import widest_dtype

__all__ = ["Rings", "RowPaths", "empty_rings"]


class RowPaths(NamedTuple):
    """The nested intervals of B rows, innermost first, all with K entries.

    Shorter paths end in entries of weight 0 that hold every class.

    Attributes:
        start, stop: int32 (B, K), bounds of class positions.
        weight: float64 (B, K).
    """

    start: Tensor
    stop: Tensor
    weight: Tensor

    def with_own(self, start: Tensor, stop: Tensor) -> RowPaths:
        """The same paths with one more entry innermost, of weight 0; its bounds are (B)."""
        nothing = self.weight.new_zeros(len(self.weight), 1)
        return RowPaths(
            torch.cat([start[:, None].to(self.start), self.start], 1),
            torch.cat([stop[:, None].to(self.stop), self.stop], 1),
            torch.cat([nothing, self.weight], 1),
        )

    def without_entries(self) -> RowPaths:
        """The same number of paths, without any entries."""
        return RowPaths(*(x[:, :0].contiguous() for x in self))

    def part(self, rows: slice) -> RowPaths:
        """The paths of some rows."""
        return RowPaths(*(x[rows] for x in self))


class Rings(NamedTuple):
    """Sums of exponentials in the rings of B rows' paths, `exp(max) * sum`; updated in place.

    Ring r < K is what interval r adds to the one inside it; ring K is the columns outside of all.

    Attributes:
        max: (B, K+1), float64 for float64 logits and float32 otherwise; -inf for an empty ring.
        sum: float64 (B, K+1), the sum of exp(z - max).
        moment: float64 (B, K+1), the sum of (z - max) exp(z - max), for an entropy term; or None.
    """

    max: Tensor
    sum: Tensor
    moment: Tensor | None

    def part(self, rows: slice) -> Rings:
        """The rings of some rows, in the same memory."""
        moment = None if self.moment is None else self.moment[rows]
        return Rings(self.max[rows], self.sum[rows], moment)


def empty_rings(paths: RowPaths, dtype: torch.dtype, with_moment: bool = False) -> Rings:
    """The rings before anything is measured; `dtype` is that of `max`."""
    size, num_entries = paths.start.shape
    shape, device = (size, num_entries + 1), paths.start.device
    zeros = torch.zeros(shape, dtype=widest_dtype(device), device=device)
    return Rings(
        torch.full(shape, -torch.inf, dtype=dtype, device=device),
        zeros,
        zeros.clone() if with_moment else None,
    )
