"""Losses whose keywords are attributes, as in `nn.CrossEntropyLoss`."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor, nn

from ..arguments import check_weight
from ..hierarchy import Hierarchy, check_hierarchy
from ..options import OF_TARGETS, LossOptions, Reduction
from ..scripting import NotScripted
from ..spaces import TargetSpace

__all__ = ["Option", "OptionsModule"]

T = TypeVar("T")


class Option(Generic[T]):
    """A keyword of a loss as an attribute that is checked when it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, loss: OptionsModule, owner: type) -> T:
        holder = loss.options.targets if self._name in OF_TARGETS else loss.options
        value: T = getattr(holder, self._name)
        return value

    def __set__(self, loss: OptionsModule, value: T) -> None:
        loss._set_options(loss.options.with_option(self._name, value))


class OptionsModule(NotScripted, nn.Module):
    """A loss over a hierarchy, with class weights (T,) and options.

    Attributes:
        hierarchy: of the classes.
        weight: a buffer, or None.
        ignore_index: as in `nn.CrossEntropyLoss`; it may be set.
        reduction: as in `nn.CrossEntropyLoss`; it may be set.
    """

    weight: Tensor | None
    ignore_index = Option[int]()
    reduction = Option[Reduction]()

    def __init__(
        self, hierarchy: Hierarchy, weight: Tensor | None, target_space: TargetSpace
    ) -> None:
        super().__init__()
        check_hierarchy(hierarchy)
        check_weight(weight, hierarchy, target_space)
        self.hierarchy = hierarchy
        self.register_buffer("weight", weight)

    @property
    def options(self) -> LossOptions:
        """The keywords that losses share."""
        raise NotImplementedError

    def _set_options(self, options: LossOptions) -> None:
        """Takes other options; if they are wrong it raises and keeps the old ones."""
        raise NotImplementedError
