"""What is computed from a hierarchy once, and kept as long as the hierarchy is."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ..hierarchy import Hierarchy

__all__ = ["HierarchyCache"]

T = TypeVar("T")


class HierarchyCache(Generic[T]):
    """Values by hierarchy and a key, such as the device. A value must not hold the hierarchy."""

    def __init__(self) -> None:
        self._values: weakref.WeakKeyDictionary[Hierarchy, dict[Hashable, T]] = (
            weakref.WeakKeyDictionary()
        )

    def get(self, hierarchy: Hierarchy, key: Hashable, build: Callable[[], T]) -> T:
        """The value; where it is new, `build` makes it."""
        values = self._values.setdefault(hierarchy, {})
        if key not in values:
            values[key] = build()
        return values[key]
