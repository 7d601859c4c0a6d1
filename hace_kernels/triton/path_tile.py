"""Launches the stages of `path_log_loss` on a tile of columns on a GPU."""

from __future__ import annotations

from torch import Tensor

from ..reference.path_stages import RingGradient
from ..row_paths import Rings, RowPaths
from .device import on_its_device
from .path_tile_kernel import Gradient, Paths, Tile, measure_kernel, write_kernel
from .path_tile_kernel import Rings as KernelRings

__all__ = ["path_measure", "path_write"]

_BLOCK = 1024


@on_its_device
def path_measure(logits: Tensor, paths: RowPaths, first: int, rings: Rings) -> None:
    """Merges a tile's exponentials into the rings' sums."""
    if logits.numel():
        measure_kernel[rings.max.shape](
            _tile(logits, first), _paths(paths), KernelRings(*rings), BLOCK=_BLOCK
        )


@on_its_device
def path_write(
    logits: Tensor, paths: RowPaths, first: int, gradient: RingGradient, grad: Tensor
) -> None:
    """Writes the gradient of a tile, which may overwrite the logits."""
    if logits.numel():
        write_kernel[gradient.shift.shape](
            _tile(logits, first), _paths(paths), Gradient(*gradient), grad, grad.stride(0),
            BLOCK=_BLOCK,
        )  # fmt: skip


def _tile(logits: Tensor, first: int) -> Tile:
    return Tile(logits, logits.stride(0), logits.shape[1], first)


def _paths(paths: RowPaths) -> Paths:
    return Paths(paths.start, paths.stop, paths.start.shape[1])
