"""The stages of `path_log_loss` on tiles of columns, on the backend that is asked for.

`hace_kernels/reference/path_stages.py` says what they compute. They have no autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native, reference, triton
from ..backends import resolve
from ..path_table import PathTable
from ..reference.path_stages import RingGradient, path_resolve
from ..registry import register
from ..row_paths import Rings, RowPaths
from ..target_errors import check_targets, check_targets_have_classes
from ..widest import widened

__all__ = ["path_measure", "path_resolve", "path_write", "select_paths"]


def path_measure(
    logits: Tensor, paths: RowPaths, first: int, rings: Rings, backend: str = "auto"
) -> None:
    """Merges the tile of class positions first .. first + T into the rings, in place.

    Args:
        logits: (B, T), unit stride along a row.
        paths: the paths of the B rows.
        first: the class position of the tile's first column.
        rings: the rings of the B rows, as `empty_rings` or the tiles before left them.
        backend: "auto", or one of `hace_kernels.backends()`.

    Raises:
        BackendError: the backend asked for cannot run, or has no stages.
    """
    resolve("path_measure", backend, logits)(logits, paths, first, rings)


def path_write(
    logits: Tensor,
    paths: RowPaths,
    first: int,
    gradient: RingGradient,
    grad: Tensor,
    backend: str = "auto",
) -> None:
    """Writes the gradient of a tile into `grad` (B, T), which may be the tile itself.

    The other arguments and errors are those of `path_measure`.
    """
    resolve("path_write", backend, logits)(logits, paths, first, gradient, grad)


def _native_measure(logits: Tensor, paths: RowPaths, first: int, rings: Rings) -> None:
    torch.ops.hace_kernels.path_measure(logits, paths.start, paths.stop, first, *rings)


def _native_write(
    logits: Tensor, paths: RowPaths, first: int, gradient: RingGradient, grad: Tensor
) -> None:
    torch.ops.hace_kernels.path_write(logits, paths.start, paths.stop, first, *gradient, grad)


register("path_measure", {"reference": reference.path_measure})
register("path_write", {"reference": reference.path_write})
if triton.load_error is None:
    from ..triton import path_tile

    register("path_measure", {"triton": path_tile.path_measure})
    register("path_write", {"triton": path_tile.path_write})
if native.load_error is None:
    register("path_measure", {"cpu": _native_measure, "cuda": _native_measure})
    register("path_write", {"cpu": _native_write, "cuda": _native_write})


def select_paths(
    table: PathTable, target: Tensor, counts: Tensor, check: bool = True
) -> tuple[RowPaths, Tensor]:
    """The paths of the rows' targets, and which rows have one.

    Args:
        table: the paths of T targets.
        target: int64 (B).
        counts: bool (B); the targets of the other rows are not looked at.
        check: whether to look for bad targets on the CPU.

    Returns:
        The paths, and bool (B): False where a row counts and its target is not in the table. Rows
        without a path get K entries that hold every class.

    Raises:
        IndexError: a bad target, in eager mode on the CPU.
    """
    in_range = (target >= 0) & (target < table.num_targets)
    if check:
        check_targets(target, counts & ~in_range, table.num_targets)
    row = torch.where(in_range & counts, target, 0)
    index = torch.arange(table.max_entries, device=target.device)
    if not len(table.weight):
        shape = (len(target), table.max_entries)
        start = torch.zeros(shape, dtype=torch.int32, device=target.device)
        return RowPaths(start, start + table.num_classes, widened(start)), in_range | ~counts
    first, last = table.ptr[row], table.ptr[row + 1]
    index = first[:, None] + index
    real = (index < last[:, None]) & (in_range & counts)[:, None]
    index = torch.where(real, index, 0)
    start = torch.where(real, table.start[index], 0)
    stop = torch.where(real, table.stop[index], table.num_classes)
    empty = (start == stop) & real
    if check:
        check_targets_have_classes(target, empty.any(1))
    weight = torch.where(real, table.weight[index], 0.0)
    return RowPaths(start, stop, weight), ~counts | (in_range & ~empty.any(1))
