"""Target tables: how `tree_log_loss` turns targets into mass on the nodes of a tree."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SoftLabels", "TargetTable"]


class SoftLabels(NamedTuple):
    """Targets that stand for a distribution over the classes, by their lowest common ancestors.

    The share of class c in target y is proportional to `exp(log_similarity)` of the place of the
    lowest common ancestor of c and y; that of y's own class is proportional to 1 where y stands
    apart. The shares sum to 1.

    Attributes:
        log_similarity: float64 (P), not positive.
        is_class: float64 (P), 1 at the places of classes, 0 elsewhere.
        apart: bool (T), only where the target is a class.
    """

    log_similarity: Tensor
    is_class: Tensor
    apart: Tensor

    def to(self, device: torch.device | str) -> SoftLabels:
        """The same on `device`."""
        return SoftLabels(*(tensor.to(device) for tensor in self))


class TargetTable(NamedTuple):
    """T targets, what each puts where, and what every node keeps of it; tensors on one device.

    A row's target t of weight ω puts the mass `ω share_t` on its own place, or, with soft labels,
    spreads it over the classes by their distribution; `ω spread_t` goes to every class, and
    `row_spread` too, whatever the row's targets. What goes to a class counts `unit` times. Then the
    mass rises: every place keeps its share of what reaches it and hands the rest to its parent.

    Label smoothing by ε is `share = 1 − ε` and `row_spread = ε / C`. Class weights are in `share`
    (without soft labels) and in `unit`.

    Attributes:
        place: int32 (T), each target's place in the `TreeTable`, or −1: not a valid target.
        keep: float64 (P), the share of the mass reaching a place that stays there.
        unit: float64 (P), the mass that 1 on every class puts on each place.
        share: float64 (T).
        weight: float64 (T), what an index target counts for where `mean` divides; None: 1.
        spread: float64 (T), or None for none.
        row_spread: a number.
        soft_labels: for index targets, or None.
    """

    place: Tensor
    keep: Tensor
    unit: Tensor
    share: Tensor
    weight: Tensor | None
    spread: Tensor | None
    row_spread: float
    soft_labels: SoftLabels | None

    @property
    def num_targets(self) -> int:
        """T."""
        return self.place.shape[0]

    def to(self, device: torch.device | str) -> TargetTable:
        """The same table on `device`."""
        return TargetTable(
            self.place.to(device),
            self.keep.to(device),
            self.unit.to(device),
            self.share.to(device),
            None if self.weight is None else self.weight.to(device),
            None if self.spread is None else self.spread.to(device),
            self.row_spread,
            None if self.soft_labels is None else self.soft_labels.to(device),
        )
