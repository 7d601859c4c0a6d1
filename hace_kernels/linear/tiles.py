"""A linear layer's rows in tiles of class positions: which there are, and how one is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layer", "tile_width", "without_autocast"]

# A tile's logits should still be in the second-level cache (a GPU's is shared and larger) when the
# product that made them is done, and matrix products want some width.
_TILE_BYTES = 2 << 20
_MIN_WIDTH = 256


def tile_width(rows: int, features: int, itemsize: int) -> int:
    """Columns of a tile, from shapes alone, so that the same call gives the same bits.

    Neither the logits of a tile (rows × T) nor its part of the layer (T × features), which may have
    to be gathered or cast, take more than a few MiB.
    """
    widest = _TILE_BYTES // (itemsize * max(1, rows, features))
    return max(_MIN_WIDTH, widest // _MIN_WIDTH * _MIN_WIDTH)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products have the dtypes of their operands."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@dataclass(frozen=True)
class Layer:
    """`x @ weight.T + bias` by class positions.

    Attributes:
        weight: (C, F). bias: (C) or None.
        order: int32 (C), class position → row of the weight, or None where it is the identity.
        dtype: of the products.
        width: positions in a tile.
    """

    weight: Tensor
    bias: Tensor | None
    order: Tensor | None
    dtype: torch.dtype
    width: int

    def spans(self) -> Iterator[tuple[int, int]]:
        """The tiles, as bounds of class positions."""
        num_classes = len(self.weight)
        for first in range(0, num_classes, self.width):
            yield first, min(first + self.width, num_classes)

    def rows(self, first: int, last: int) -> slice | Tensor:
        """The rows of the weight at positions first .. last."""
        return slice(first, last) if self.order is None else self.order[first:last].long()

    def part(self, array: Tensor, first: int, last: int) -> Tensor:
        """The entries of positions first .. last of `weight` or `bias`, in the products' dtype."""
        if self.order is None:
            return array[first:last].to(self.dtype)
        return array.index_select(0, self.order[first:last]).to(self.dtype)

    def logits(self, x: Tensor, weight: Tensor, first: int, last: int, buffer: Tensor) -> Tensor:
        """A tile (B, T) of logits in the memory of `buffer`; `weight` is the tile's part."""
        z = buffer[: len(x) * (last - first)].view(len(x), last - first)
        if self.bias is None:
            return torch.mm(x, weight.T, out=z)
        return torch.addmm(self.part(self.bias, first, last), x, weight.T, out=z)

    def tiles(self, x: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """The tiles' bounds and logits (B, T), which the next tile overwrites."""
        buffer = self.buffer(x)
        for first, last in self.spans():
            with without_autocast(x.device):
                z = self.logits(x, self.part(self.weight, first, last), first, last, buffer)
            yield first, last, z

    def buffer(self, x: Tensor) -> Tensor:
        """Memory for one tile of logits."""
        return x.new_empty(len(x) * min(self.width, len(self.weight)), dtype=self.dtype)

    def put(self, grad: Tensor, first: int, last: int, part: Tensor) -> None:
        """Stores a tile's part of a gradient shaped as the weight or the bias."""
        grad[self.rows(first, last)] = part.to(grad.dtype)
