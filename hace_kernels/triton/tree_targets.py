"""Launches that put the targets of `tree_log_loss` and `dag_log_loss` on places."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rows import loss_dtype
from ..schemas import TreeLogLossArguments
from ..target_table import TargetTable
from .rows import bits, total_weight
from .tree_log_loss_kernel import (
    Given,
    PutRows,
    PutTable,
    SoftLabels,
    put_kernel,
    target_kernel,
)
from .tree_pull import Rows
from .tree_rows import pointers
from .tree_sum import inner_sums

__all__ = ["Put", "divisor_of"]


def divisor_of(call: TreeLogLossArguments) -> Tensor:
    """What `mean` divides by."""
    if call.indices is not None and call.index_weight is None:
        table = TargetTable.of_tensors(call.table, call.row_spread)
        index = call.indices[:, 0]
        return total_weight(index, table.weight, table.num_targets, call.ignore_index)
    logits = call.logits
    return torch.full((), len(logits), dtype=torch.float64, device=logits.device)


class Put:
    """Puts the targets of rows on `num_places` places, and the rows' weights in `batch.counts`.

    The places are those of the batch's tree. Without soft labels they may be any others, such as
    the nodes of a DAG.
    """

    def __init__(
        self, of: TreeLogLossArguments, table: TargetTable, batch: Rows, num_places: int
    ) -> None:
        self.of, self.batch, self.num_places = of, batch, num_places
        self.num_indices = 0 if of.indices is None else of.indices.shape[1]
        self.given = Given(of.mass, of.indices, of.index_weight)
        self.num_targets = table.num_targets
        self.soft: SoftLabels | None = None
        if table.soft_labels is not None:
            classes_below = inner_sums(table.soft_labels.is_class, of.tree, of.level_ptr)
            self.soft = SoftLabels(*table.soft_labels, classes_below)
        self.spreads = table.spread is not None or table.row_spread != 0
        by_place: tuple[Tensor | None, Tensor | None] = (None, None)
        if of.mass is not None:
            by_place = _targets_of_places(table.place, num_places)
        self.table = PutTable(
            table.place, table.unit, table.share, table.spread, bits(table.row_spread), *by_place
        )

    @property
    def scratch_bytes(self) -> int:
        """The bytes per row."""
        work = loss_dtype(self.batch.logits.dtype).itemsize
        tree = self.batch.tree
        rings = 0 if self.soft is None else tree.num_inner
        return (self.num_places + rings) * work + 8 + 20 * self.num_indices

    def __call__(self, rows: range) -> Tensor:
        """The mass that targets put on places, (rows, P)."""
        of, tree, batch = self.of, pointers(self.batch.tree), self.batch
        step = self.num_indices if of.mass is None else of.mass.stride(0)
        put = self._rows(len(rows))
        sizes = {"num_classes": batch.tree.num_classes, "num_inner": batch.tree.num_inner}
        target_kernel[(len(rows),)](
            self.given, put, self.table, self.soft, tree, rows.start, step, of.ignore_index,
            self.num_targets, **sizes,
        )  # fmt: skip
        put_kernel[(len(rows), batch.shape.parts)](
            self.given, put, self.table, tree, rows.start, step, self.num_places, **sizes
        )
        places: Tensor = put.places
        return places

    def _rows(self, count: int) -> PutRows:
        """Memory for some rows."""
        new, work = self.batch.logits.new_empty, loss_dtype(self.batch.logits.dtype)
        put = PutRows(new((count, self.num_places), dtype=work), self.batch.counts)
        if self.of.indices is not None:
            # Each is allocated alone: a part of another tensor might be aligned in another way.
            by_index = (count, self.num_indices)
            put = put._replace(
                place=new(by_index, dtype=torch.int32),
                mass=new(by_index, dtype=torch.float64),
                reached=new(by_index, dtype=torch.float64),
            )
        if self.soft is not None:
            return put._replace(rings=new((count, self.batch.tree.num_inner), dtype=work))
        if self.spreads:
            return put._replace(alpha=new(count, dtype=torch.float64))
        return put


def _targets_of_places(place: Tensor, num_places: int) -> tuple[Tensor, Tensor]:
    """CSR arrays of the targets at each place, so that their masses are added in a fixed order."""
    at, order = place.sort(stable=True)
    places = torch.arange(num_places + 1, dtype=at.dtype, device=at.device)
    return torch.searchsorted(at, places, out_int32=True), order
