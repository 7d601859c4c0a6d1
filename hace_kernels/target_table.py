"""Target tables: how `tree_log_loss` turns targets into mass on the nodes of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .widest import moved

__all__ = ["ByColumn", "Risen", "SoftLabels", "TargetTable"]


class SoftLabels(NamedTuple):
    """Targets that stand for a distribution over the classes, by their lowest common ancestors.

    The share of class c in target y is proportional to `exp(log_similarity)` of the place of the
    lowest common ancestor of c and y. The shares sum to 1.

    Attributes:
        log_similarity: float64 (P), not positive.
        is_class: float64 (P), 1 at the places of classes, 0 elsewhere.
    """

    log_similarity: Tensor
    is_class: Tensor


class Risen(NamedTuple):
    """The mass at each place once a mass of 1 on every class has risen.

    It follows from the tree and a table's `keep` and `unit` (and `is_class`). Whoever replaces one
    of these leaves it out; the kernels then compute it at each call, which takes as long as a few
    rows.

    Attributes:
        kept_unit: float32 (P), the mass that each place keeps.
        reaching: float64 (P), the mass that reaches each place.
        classes_below: int32 (P), the classes at or below each place; for soft labels.
    """

    kept_unit: Tensor
    reaching: Tensor
    classes_below: Tensor | None


class ByColumn(NamedTuple):
    """What becomes of 1 on each target, where the targets are the columns in their order.

    It follows from a table's `place`, `keep`, `unit` and `share`, and whoever replaces these leaves
    it out: a few rows of probabilities take a third longer then.

    Attributes:
        kept: float32 (C), what the column keeps; (1) if share, keep and unit are the same for all
            columns.
        handed: float32 (C) or (1), what it hands to its parent.
    """

    kept: Tensor
    handed: Tensor


class TargetTable(NamedTuple):
    """T targets, what each puts where, and what every node keeps of it; tensors on one device.

    A row's target t of weight ω puts the mass `ω share_t` on its own place, or, with soft labels,
    spreads it over the classes by their distribution. It also puts `ω spread_t` on every class,
    and every row puts `row_spread` there, whatever its targets. Mass on a class counts `unit`
    times. Then the mass rises: every place keeps its share of what reaches it and hands the rest
    to its parent.

    Label smoothing by ε is `share = 1 − ε` and `row_spread = ε / C`. Class weights are factors of
    `share` (without soft labels) and of `unit`.

    Attributes:
        place: int32 (T), each target's place in the `TreeTable`, or −1: not a valid target.
        keep: float64 (P), the share of the mass reaching a place that stays there.
        unit: float64 (P), the mass that 1 on every class puts on each place.
        share: float64 (T), see above.
        weight: float64 (T), what an index target counts in the divisor of `mean`; None: 1.
        spread: float64 (T), see above; None: 0.
        row_spread: a number, see above.
        soft_labels: the distributions of index targets, or None.
        risen: what follows from `keep` and `unit`, or None.
        by_column: what follows from `place`, `keep`, `unit` and `share`, or None.
    """

    place: Tensor
    keep: Tensor
    unit: Tensor
    share: Tensor
    weight: Tensor | None
    spread: Tensor | None
    row_spread: float
    soft_labels: SoftLabels | None
    risen: Risen | None = None
    by_column: ByColumn | None = None

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.place.device

    @property
    def num_targets(self) -> int:
        """T."""
        return self.place.shape[0]

    @property
    def tensors(self) -> list[Tensor | None]:
        """The tensors in the order of the native ops, or None for those that the table lacks."""
        soft_labels = (None, None) if self.soft_labels is None else self.soft_labels
        risen = (None, None, None) if self.risen is None else self.risen
        by_column = (None, None) if self.by_column is None else self.by_column
        return [
            self.place, self.keep, self.unit, self.share, self.weight, self.spread, *soft_labels,
            *risen, *by_column,
        ]  # fmt: skip

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor | None], row_spread: float) -> TargetTable:
        """The table from its `tensors`."""
        place, keep, unit, share, weight, spread, *rest = tensors
        assert place is not None and keep is not None  # noqa: PT018
        assert unit is not None and share is not None  # noqa: PT018
        log_similarity, is_class, kept_unit, reaching, classes_below, kept, handed = rest
        soft_labels = None
        if log_similarity is not None and is_class is not None:
            soft_labels = SoftLabels(log_similarity, is_class)
        risen = None
        if kept_unit is not None and reaching is not None:
            risen = Risen(kept_unit, reaching, classes_below)
        by_column = None if kept is None or handed is None else ByColumn(kept, handed)
        return cls(
            place, keep, unit, share, weight, spread, row_spread, soft_labels, risen, by_column
        )

    def to(self, device: torch.device | str) -> TargetTable:
        """The same table on `device`."""
        tensors = [None if tensor is None else moved(tensor, device) for tensor in self.tensors]
        return self.of_tensors(tensors, self.row_spread)
