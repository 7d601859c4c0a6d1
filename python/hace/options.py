"""What the losses of the family have in common: their keywords, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Literal

from .hierarchy import Columns, Space

__all__ = ["Distance", "LossOptions", "Reduction", "Smoothing", "check_finite"]

Reduction = Literal["mean", "sum", "none"]
Smoothing = Literal["uniform", "others"]
Distance = Literal["height", "depth"]


@dataclass(frozen=True)
class LossOptions:
    """The keywords of a loss but its class weights; see `hace.HACELoss`.

    `entropy` is λ of `hace.RegularizedCrossEntropyLoss`.

    Raises:
        ValueError: a value outside its range.
        TypeError: `ignore_index` is not an integer.
    """

    logits: Columns = "classes"
    targets: Space = "classes"
    ignore_index: int = -100
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    smoothing: Smoothing = "uniform"
    soft_labels: float | None = None
    soft_label_distance: Distance = "height"
    eps: float = 0.0
    backend: str = "auto"
    entropy: float = 0.0

    @property
    def spreads(self) -> bool:
        """Whether an index target stands for more than itself."""
        return self.label_smoothing > 0 or self.soft_labels is not None

    def differing(self, but: tuple[str, ...] = ()) -> list[str]:
        """The keywords that differ from their defaults, as `name=value`."""
        return [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name not in but and getattr(self, field.name) != field.default
        ]

    def __post_init__(self) -> None:
        _check_choice("logits", self.logits, "classes", "nodes", "depth_first")
        _check_choice("targets", self.targets, "classes", "nodes")
        _check_choice("reduction", self.reduction, "mean", "sum", "none")
        _check_choice("smoothing", self.smoothing, "uniform", "others")
        _check_choice("soft_label_distance", self.soft_label_distance, "height", "depth")
        if not isinstance(self.ignore_index, int):
            raise TypeError(f"ignore_index must be an integer, got {self.ignore_index!r}")
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(
                f"label_smoothing must be between 0 and 1, got {self.label_smoothing!r}"
            )
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"eps must be 0 or a small positive number, got {self.eps!r}")
        if self.soft_labels is not None and not 0 <= self.soft_labels < float("inf"):
            raise ValueError(
                f"soft_labels must be None or the β of exp(-β · distance), a number from 0 on; got "
                f"{self.soft_labels!r}"
            )


def check_finite(name: str, value: object) -> None:
    """Raises unless it is a finite number."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def _check_choice(name: str, value: object, *choices: str) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {str(choices)[1:-1]}, got {value!r}")
