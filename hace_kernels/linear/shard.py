"""Classes that are distributed over processes, each of which holds some columns of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..path_table import PathTable
from ..row_paths import Rings, RowPaths

__all__ = ["Exchange", "LocalClasses", "Shard", "local_classes"]


class Exchange(Protocol):
    """Sums over all processes, each of which holds some of the classes.

    Every process calls the same methods in the same order, whatever its data and whichever of its
    tensors require a gradient.
    """

    def rings(self, rings: Rings, bad_row: Tensor) -> Tensor:
        """Turns the rings of this process's classes into those of all classes, in place.

        Args:
            rings: the rings of B rows.
            bad_row: float32 scalar, 1 + the last row whose target is bad; 0 if none is.

        Returns:
            The largest `bad_row` of all processes.
        """

    def grad_input(self, grad: Tensor) -> None:
        """Turns this process's part of the input's gradient into the whole, in place."""

    def add_up(self, x: Tensor) -> None:
        """The sum of a tensor over the processes, in place."""


@dataclass(frozen=True)
class Shard:
    """Columns first .. last of the logits, which this process holds.

    Attributes:
        first, last: bounds among the table's C columns; equal if this process holds none.
        exchange: with the processes that hold the others.
        borders: the first columns of all processes in ascending order, then C; only needed for
            targets that are spread over all nodes.
    """

    first: int
    last: int
    exchange: Exchange
    borders: tuple[int, ...] | None = None


class LocalClasses(NamedTuple):
    """The class positions of a process's columns.

    Attributes:
        position: int32 (C'), ascending; None if they are contiguous: first .. first + C'.
        first: the first of them, if they are contiguous.
        order: int32 (C'), local position → local column; None where it is the identity.
        size: C'.
    """

    position: Tensor | None
    first: int
    order: Tensor | None
    size: int

    def paths(self, paths: RowPaths) -> RowPaths:
        """The same paths in local positions; intervals may be empty."""
        return RowPaths(self.local(paths.start), self.local(paths.stop), paths.weight)

    def local(self, end: Tensor) -> Tensor:
        """Bounds of class positions as bounds of local positions."""
        if self.position is None:
            return (end - self.first).clamp(0, self.size)
        found = torch.searchsorted(self.position, end.contiguous(), out_int32=True)
        return found.to(end.dtype)


def local_classes(table: PathTable, shard: Shard | None) -> LocalClasses:
    """Where the columns of a shard are; without one, all columns."""
    first, last = (0, table.num_classes) if shard is None else (shard.first, shard.last)
    if not 0 <= first <= last <= table.num_classes:
        raise ValueError(
            f"a shard must hold columns within [0, {table.num_classes}), got {first} to {last}"
        )
    if table.position is None or shard is None:
        return LocalClasses(None, first, table.order, last - first)
    here, order = table.position[first:last].sort()
    return LocalClasses(here, 0, order.to(torch.int32), last - first)
