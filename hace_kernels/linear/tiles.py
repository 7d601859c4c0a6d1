"""A linear layer in tiles of class positions: which tiles there are, and how one is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..autocast import without_autocast

__all__ = [
    "SWEEP_BYTES",
    "TILE_BYTES",
    "Layer",
    "OnWeightGrad",
    "TileGradient",
    "put_rows",
    "tile_width",
]

OnWeightGrad: TypeAlias = Callable[[Tensor | slice, Tensor], object]
"""Takes rows of the weight, as a slice or int64 indices, and their gradient (T, F).

If it has a method `begin`, this is called before the tiles of each backward.
"""

#: A tile's logits should still be in a cache when the product that computes them is done. On a CPU
#: with 2 MiB of L2 cache per core, 4 MiB took 0.83 to 0.90 of the time of 2 MiB in bfloat16
#: (`python -m benchmarks.heads --only schedules` with either).
TILE_BYTES = 4 << 20

#: A sweep over all nodes takes some dozens of calls per tile, and several tensors of its size.
SWEEP_BYTES = 8 << 20

# Matrix products need some width to be fast.
_MIN_WIDTH = 256


def tile_width(rows: int, features: int, itemsize: int, tile_bytes: int = TILE_BYTES) -> int:
    """The columns per tile. It depends only on shapes, so that the same call gives the same bits.

    Neither the logits of a tile (rows × T) nor its part of the layer (T × features), which may have
    to be gathered or cast, take more than `tile_bytes`, unless the tile is very narrow.
    """
    widest = tile_bytes // (itemsize * max(1, rows, features))
    return max(_MIN_WIDTH, widest // _MIN_WIDTH * _MIN_WIDTH)


@dataclass(frozen=True)
class Layer:
    """`x @ weight.T + bias` by class positions.

    Attributes:
        weight: (C, F).
        bias: (C), or None.
        order: int32 (C), class position → row of the weight, or None where it is the identity.
        dtype: that of the products.
        width: the positions per tile.
    """

    weight: Tensor
    bias: Tensor | None
    order: Tensor | None
    dtype: torch.dtype
    width: int

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.weight)

    def spans(self) -> Iterator[tuple[int, int]]:
        """The tiles, as bounds of class positions."""
        for first in range(0, self.num_classes, self.width):
            yield first, min(first + self.width, self.num_classes)

    def rows(self, first: int, last: int) -> slice | Tensor:
        """The rows of the weight at positions first .. last."""
        return slice(first, last) if self.order is None else self.order[first:last].long()

    def part(self, array: Tensor, first: int, last: int) -> Tensor:
        """The entries of positions first .. last of `weight` or `bias`, in the products' dtype."""
        if self.order is None:
            return array[first:last].to(self.dtype)
        return array.index_select(0, self.order[first:last]).to(self.dtype)

    def logits(self, x: Tensor, weight: Tensor, first: int, last: int, buffer: Tensor) -> Tensor:
        """A tile (B, T) of logits; `weight` is the tile's part of the weight.

        They are written to `buffer`: that of `Layer.buffer`, or any (B, T).
        """
        z = buffer
        if buffer.dim() == 1:
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
        return x.new_empty(len(x) * min(self.width, self.num_classes), dtype=self.dtype)

    def gradient(self, array: Tensor, update: OnWeightGrad | None = None) -> TileGradient:
        """The object that takes the gradient of `weight` or `bias` by tiles."""
        return _RowGradient(self, array, update)


class TileGradient(ABC):
    """Takes the gradient of a layer's weight or bias tile by tile."""

    @abstractmethod
    def put(self, first: int, last: int, part: Tensor) -> None:
        """Takes the gradient (T, …) of the classes at positions first .. last."""

    def put_product(self, first: int, last: int, a: Tensor, b: Tensor) -> None:
        """Like `put`, for the product a @ b."""
        self.put(first, last, torch.mm(a, b))

    @abstractmethod
    def finish(self) -> Tensor | None:
        """The gradient, once all tiles have been put; None if an update took it."""


class _RowGradient(TileGradient):
    def __init__(self, layer: Layer, array: Tensor, update: OnWeightGrad | None) -> None:
        self._layer, self._update = layer, update
        self._grad = torch.empty_like(array) if update is None else None

    def put(self, first: int, last: int, part: Tensor) -> None:
        rows = self._layer.rows(first, last)
        if self._grad is not None:
            put_rows(self._grad, rows, part)
        elif self._update is not None:
            self._update(rows, part)

    def put_product(self, first: int, last: int, a: Tensor, b: Tensor) -> None:
        rows = self._layer.rows(first, last)
        if self._grad is not None and isinstance(rows, slice) and self._grad.dtype == a.dtype:
            torch.mm(a, b, out=self._grad[rows])
        else:
            super().put_product(first, last, a, b)

    def finish(self) -> Tensor | None:
        return self._grad


#: What a row can be copied as, from the widest on.
_WORDS = (torch.complex128, torch.int64)


def put_rows(array: Tensor, rows: slice | Tensor, part: Tensor) -> None:
    """`array[rows] = part`; no row comes twice."""
    if isinstance(rows, slice):
        array[rows] = part
        return
    part = part.to(array.dtype)
    # The CPU's index_copy_ takes as long for an element of 2 bytes as for one of 16.
    if array.dim() == 2 and array.device.type == "cpu":
        row_bytes, are_dense = part[:1].nbytes, array.is_contiguous() and part.is_contiguous()
        for word in _WORDS:
            if are_dense and row_bytes and row_bytes % word.itemsize == 0:
                array, part = array.view(word), part.view(word)
                break
    array.index_copy_(0, rows, part)
