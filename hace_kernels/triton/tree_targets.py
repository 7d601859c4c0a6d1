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
    Own,
    PutTable,
    SoftLabels,
    put_kernel,
    target_kernel,
)
from .tree_pull import Rows
from .tree_sum import inner_sums

__all__ = ["Put", "divisor_of"]

_TARGETS_AT_ONCE = 128
_PLACES_AT_ONCE = 1024


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
        self.of, self.table, self.batch, self.num_places = of, table, batch, num_places
        self.num_indices = 0 if of.indices is None else of.indices.shape[1]
        soft_labels = table.soft_labels
        self.spreads = table.spread is not None or table.row_spread != 0 or soft_labels is not None
        self.soft: SoftLabels | None = None
        if soft_labels is not None:
            classes_below = inner_sums(soft_labels.is_class, of.tree, of.level_ptr)
            self.soft = SoftLabels(*soft_labels, classes_below)
        self.target_ptr, self.target_order = None, None
        if of.mass is not None:
            self.target_ptr, self.target_order = _targets_of_places(table.place, num_places)

    @property
    def scratch_bytes(self) -> int:
        """The bytes per row."""
        work = loss_dtype(self.batch.logits.dtype).itemsize
        tree = self.batch.tree
        rings = tree.num_inner if self.table.soft_labels else 0
        return (self.num_places + rings) * work + 8 + 20 * self.num_indices

    def __call__(self, rows: range) -> Tensor:
        """The mass that targets put on places, (rows, P)."""
        of, table, batch, tree = self.of, self.table, self.batch, self.batch.tree
        tensors = PutTable(table.place, table.unit, table.share, table.spread)
        new = batch.logits.new_empty
        count, work = len(rows), loss_dtype(batch.logits.dtype)
        by_index = (count, self.num_indices)
        own = Own(None, None, None)
        if of.indices is not None:
            places, masses = (
                new(by_index, dtype=torch.int32),
                new(2, *by_index, dtype=torch.float64),
            )
            own = Own(places, *masses)
        rings = table.soft_labels is not None
        alpha = new(
            (count, tree.num_inner) if rings else count, dtype=work if rings else torch.float64
        )
        mass_step = 0 if of.mass is None else of.mass.stride(0)
        target_kernel[(count,)](
            Given(of.mass, of.indices, of.index_weight), own, batch.counts, alpha, tensors,
            self.soft, tree.parent, batch.levels, rows.start, mass_step, self.num_indices,
            of.ignore_index, table.num_targets, tree.num_classes, tree.num_inner,
            len(batch.levels) - 1, bits(table.row_spread), BLOCK=_TARGETS_AT_ONCE,
        )  # fmt: skip
        reached = new((count, self.num_places), dtype=work)
        programs = tree.shape.parts
        put_kernel[(count * programs,)](
            reached, of.mass, alpha, own, tensors, self.target_ptr, self.target_order,
            tree.parent, rows.start, programs, mass_step, self.num_indices, self.num_places,
            tree.num_classes, tree.num_inner, SPREADS=self.spreads, RINGS=rings,
            BLOCK=_PLACES_AT_ONCE,
        )  # fmt: skip
        return reached


def _targets_of_places(place: Tensor, num_places: int) -> tuple[Tensor, Tensor]:
    """CSR arrays of the targets at each place, so that their masses are added in a fixed order."""
    at, order = place.sort(stable=True)
    places = torch.arange(num_places + 1, dtype=at.dtype, device=at.device)
    return torch.searchsorted(at, places, out_int32=True), order
