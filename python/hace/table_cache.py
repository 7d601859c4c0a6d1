"""Tables of a hierarchy, built once and kept on every device that asked for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import torch


class _Movable(Protocol):
    def to(self: T, device: torch.device, /) -> T: ...


T = TypeVar("T", bound=_Movable)

_CPU = torch.device("cpu")

# A schedule over dilutions asks for a new table at each step, which must not fill the memory.
_MAX_TABLES = 16


class TableCache(Generic[T]):
    """The latest tables by key and device.

    Finding one is a plain dictionary lookup, which torch.compile can trace. The dictionary is
    replaced and never changed, so threads need no lock: at worst two of them build the same table.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[Hashable, torch.device], T] = {}

    def get(self, key: Hashable, device: torch.device | str, build: Callable[[], T]) -> T:
        """The table of `key` on `device`; where it is new, `build` makes it on the CPU."""
        table = self._tables.get((key, torch.device(device)))
        return self._add(key, torch.device(device), build) if table is None else table

    def _add(self, key: Hashable, device: torch.device, build: Callable[[], T]) -> T:
        # "cuda" means the current device, which may be another one the next time.
        actual = torch.empty(0, device=device).device
        if actual != device:
            return self.get(key, actual, build)
        table = build() if device == _CPU else self.get(key, _CPU, build).to(device)
        latest = list(self._tables.items())[1 - _MAX_TABLES :]
        self._tables = dict([*latest, ((key, device), table)])
        return table
