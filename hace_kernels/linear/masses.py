"""The mass that rows' targets put on the classes of a tile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.path_stages import path_write
from ..reference.path_stages import RingGradient
from ..row_paths import RowPaths
from ..target_table import TargetTable
from ..widest import widened
from .folded_tree import TreeOfClasses
from .shard import LocalClasses

__all__ = ["Probabilities", "SoftMasses"]

# The probabilities of so many targets are widened at a time.
_CHUNK = 1024


@dataclass(frozen=True)
class Probabilities:
    """The mass of probabilities (B, T) of targets, each of which is that of a column.

    Attributes:
        target: (B, T).
        of_column: int64 (C), the target of each column, or −1.
        share: float64 (T), that of the target table; None: each column has a target of share 1.
        everywhere: float64 (B), what every class gets besides; None: nothing.
        unit: float64 (P), what 1 on every class puts on each place.
    """

    target: Tensor
    of_column: Tensor
    share: Tensor | None
    everywhere: Tensor | None
    unit: Tensor

    @classmethod
    def of(cls, target: Tensor, table: TargetTable, num_columns: int) -> Probabilities:
        """From probabilities and the table of the targets."""
        place = table.place.long()
        of_column = torch.full((num_columns,), -1, dtype=torch.int64, device=place.device)
        of_column[place] = torch.arange(len(place), device=place.device)
        everywhere = table.share.new_full((len(target),), table.row_spread)
        if table.spread is not None:
            for first in range(0, target.shape[1], _CHUNK):
                some = slice(first, first + _CHUNK)
                everywhere = everywhere + widened(target[:, some]) @ table.spread[some]
        is_plain = bool((of_column >= 0).all() and (table.share == 1).all())
        return cls(
            target,
            of_column,
            None if is_plain else table.share,
            everywhere if everywhere.any() else None,
            table.unit,
        )

    def fill(self, mass: Tensor, columns: Tensor, first: int) -> None:
        """See `Masses`."""
        at = self.of_column[columns]
        begin = int(at[0])
        if begin >= 0 and bool((at.diff() == 1).all()):  # a gather would take longer than all else
            mass.copy_(self.target[:, begin : begin + len(at)])
        else:
            mass.copy_(self.target.index_select(1, at.clamp(min=0)))
        if self.share is not None:
            share = torch.where(at >= 0, self.share[at], 0.0).to(mass.dtype)
            mass *= share
            if not share.all():
                mass[:, share == 0] = 0
        if self.everywhere is not None:
            mass.addr_(self.everywhere.to(mass.dtype), self.unit[columns].to(mass.dtype))


@dataclass(frozen=True)
class SoftMasses:
    """Distributions over the classes by the lowest common ancestors with the rows' targets.

    Attributes:
        paths: the paths of the rows' targets, K · B one after the other, in local positions.
        of_ring: float64 (K · B, …), what every class in a ring gets.
        rows: B.
        unit: float64 (P), what 1 on every class puts on each place; None: 1.
        backend: that of `path_write`.
    """

    paths: RowPaths
    of_ring: Tensor
    rows: int
    unit: Tensor | None
    backend: str

    @classmethod
    def of(
        cls,
        target: Tensor,
        mass: Tensor,
        everywhere: Tensor,
        tree: TreeOfClasses,
        table: TargetTable,
        classes: LocalClasses,
        backend: str,
    ) -> SoftMasses:
        """From targets and their mass, both (K · B)."""
        soft = table.soft_labels
        assert soft is not None
        place, on_path = table.place[target].long().clamp(min=0), []
        parent = tree.tree.parent.long()
        for _ in range(len(tree.tree.level_ptr)):
            on_path.append(place)
            place = torch.where(parent[place] >= 0, parent[place], place)
        path = torch.stack(on_path, 1)
        start, size = tree.start[path], tree.tree.num_columns[path]
        below = widened(tree.classes_below(table)[path])
        # Similarities are relative to that of the nearest class, since all may be far away.
        similarity = soft.log_similarity[path]
        similarity = (similarity - similarity[:, :1]).exp()
        in_ring = torch.cat([below[:, :1], below.diff(dim=1)], 1)
        total = (similarity * in_ring).sum(1)
        of_ring = (mass * table.share[target] / total)[:, None] * similarity
        of_ring = torch.where(mass[:, None] == 0, 0.0, of_ring)
        of_ring = torch.cat([of_ring, torch.zeros_like(of_ring[:, :1])], 1)
        rows = len(everywhere)
        of_ring[:rows] += everywhere[: len(of_ring), None]  # in the first of a row's paths
        paths = classes.paths(RowPaths(start, start + size, torch.zeros_like(similarity)))
        has_units = bool((table.unit[: tree.tree.num_classes] != 1).any())
        unit = table.unit if has_units else None
        return cls(paths, of_ring.contiguous(), rows, unit, backend)

    def fill(self, mass: Tensor, columns: Tensor, first: int) -> None:
        """See `Masses`."""
        if not len(self.of_ring):
            mass.zero_()
        for begin in range(0, len(self.of_ring), max(1, self.rows)):
            here = slice(begin, begin + self.rows)
            of_ring = self.of_ring[here]
            zeros = torch.zeros_like(of_ring)
            constant = RingGradient(zeros.to(mass.dtype), zeros, of_ring, None, None)
            part = mass if begin == 0 else torch.empty_like(mass)
            path_write(part, self.paths.part(here), first, constant, part, self.backend)
            if begin > 0:
                mass += part
        if self.unit is not None:
            mass *= self.unit[columns].to(mass.dtype)
