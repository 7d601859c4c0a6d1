"""The keywords that losses share, checked in one place, where numbers become floats and ints."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from .checks import as_finite, as_integer, as_number, check_choice
from .spaces import LogitSpace, TargetSpace, check_logit_space, check_target_space

__all__ = ["Distance", "LossOptions", "Reduction", "Smoothing", "TargetOptions"]

Reduction: TypeAlias = Literal["mean", "sum", "none"]
Smoothing: TypeAlias = Literal["uniform", "others", "nodes"]
Distance: TypeAlias = Literal["height", "depth"]


@dataclass(frozen=True)
class TargetOptions:
    """The keywords that say what a target stands for; see `hace.HACELoss`.

    With the path weights, they are all that target tables depend on, and so the key of their cache.

    Raises:
        ValueError: a value outside its range.
        TypeError: a value that is not a number where it must be one.
    """

    target_space: TargetSpace = "classes"
    label_smoothing: float = 0.0
    smoothing: Smoothing = "uniform"
    soft_label_beta: float | None = None
    soft_label_distance: Distance = "height"

    @property
    def spreads(self) -> bool:
        """Whether an index target stands for more than itself."""
        return self.label_smoothing > 0 or self.soft_label_beta is not None

    @property
    def spares_all(self) -> bool:
        """Whether smoothing may leave no mass on the target itself."""
        return self.label_smoothing == 1 and self.smoothing != "uniform"

    def __post_init__(self) -> None:
        check_target_space(self.target_space)
        check_choice("smoothing", self.smoothing, get_args(Smoothing))
        check_choice("soft_label_distance", self.soft_label_distance, get_args(Distance))
        _set(self, "label_smoothing", as_number("label_smoothing", self.label_smoothing))
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(
                f"label_smoothing must be between 0 and 1, got {self.label_smoothing!r}"
            )
        if self.soft_label_beta is None:
            return
        _set(self, "soft_label_beta", as_number("soft_label_beta", self.soft_label_beta))
        if not 0 <= self.soft_label_beta < float("inf"):
            raise ValueError(
                "soft_label_beta must be None, or the β of exp(-β · distance), which is at least 0 "
                f"and finite; got {self.soft_label_beta!r}"
            )


OF_TARGETS = tuple(option.name for option in fields(TargetOptions))


@dataclass(frozen=True)
class LossOptions:
    """The keywords of a loss except its class weights; see `hace.HACELoss`.

    `entropy` is λ of `hace.RegularizedCrossEntropyLoss`.

    Raises:
        ValueError: a value outside its range.
        TypeError: a value that is not a number where it must be one.
    """

    logit_space: LogitSpace = "classes"
    targets: TargetOptions = field(default_factory=TargetOptions)
    ignore_index: int = -100
    reduction: Reduction = "mean"
    eps: float = 0.0
    backend: str = "auto"
    entropy: float = 0.0

    @classmethod
    def of(cls, **keywords: Any) -> LossOptions:
        """Options from the keywords of a loss, including those of its targets."""
        targets = {name: keywords.pop(name) for name in OF_TARGETS if name in keywords}
        return cls(targets=TargetOptions(**targets), **keywords)

    def with_option(self, name: str, value: Any) -> LossOptions:
        """The same options with one keyword changed."""
        if name in OF_TARGETS:
            return replace(self, targets=replace(self.targets, **{name: value}))
        return replace(self, **{name: value})

    def differing(self, but: tuple[str, ...] = ()) -> list[str]:
        """The keywords that differ from their defaults, as `name=value`."""
        found = []
        for options in (self, self.targets):
            for option in fields(options):
                value = getattr(options, option.name)
                if option.name not in (*but, "targets") and value != option.default:
                    found.append(f"{option.name}={value!r}")
        return found

    def __post_init__(self) -> None:
        check_logit_space(self.logit_space)
        check_choice("reduction", self.reduction, get_args(Reduction))
        _set(self, "ignore_index", as_integer("ignore_index", self.ignore_index))
        _set(self, "entropy", as_finite("entropy", self.entropy))
        _set(self, "eps", as_number("eps", self.eps))
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"eps must be 0 or a small positive number, got {self.eps!r}")
        if not isinstance(self.backend, str):
            raise TypeError(f"backend must be a string, got {self.backend!r}")


def _set(options: object, name: str, value: object) -> None:
    object.__setattr__(options, name, value)
