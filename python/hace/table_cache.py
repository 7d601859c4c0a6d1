"""Caches of tables per device, and a way to build them outside tracing and other modes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch._compile import _disable_dynamo
from torch.utils._python_dispatch import _disable_current_modes

from hace_kernels.transforms import in_func_transform

__all__ = ["PerDevice", "TableCache", "outside_modes"]


class _Movable(Protocol):
    def to(self: T, device: torch.device, /) -> T: ...


T = TypeVar("T")
M = TypeVar("M", bound=_Movable)

_CPU = torch.device("cpu")


def outside_modes(make: Callable[[], T]) -> T:
    """Runs `make` outside tracing, transforms, fake tensors and inference mode.

    A table outlives all of these.
    """
    # A compiler that is not imported traces nothing; importing it takes more than a second.
    if torch.compiler.is_compiling() or "torch._dynamo" in sys.modules:
        return _untraced(make)
    return _outside_modes(make)


def _outside_modes(make: Callable[[], T]) -> T:
    with torch.inference_mode(False), torch.no_grad(), _disable_current_modes(), _no_transform():
        return make()


def _no_transform() -> AbstractContextManager[Any]:
    """Outside all of torch.func's transforms: else the tensors made there end with them."""
    if not in_func_transform():
        return nullcontext()
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


@_disable_dynamo  # which imports the compiler at the first call
def _untraced(make: Callable[[], T]) -> T:
    return _outside_modes(make)


class PerDevice(Generic[T]):
    """What one module or call needs on each device; `find` makes it when it is first used there.

    A module that holds its tables keeps them when the cache drops them, and code compiled for it
    depends on nothing that others change.
    """

    def __init__(self, find: Callable[[torch.device], T]) -> None:
        self._find = find
        self._found: dict[torch.device, T] = {}

    def on(self, device: torch.device) -> T:
        """The value on `device`."""
        found = self._found.get(device)
        if found is None:
            found = self._found[device] = self._find(device)
        return found


class TableCache:
    """A cache of the latest tables, by key and device.

    Finding one is a plain dictionary lookup, which torch.compile can trace. The dictionary is
    replaced and never changed, so threads need no lock: at worst two of them build the same table.

    Args:
        max_tables: how many are kept; None: all.
    """

    def __init__(self, max_tables: int | None = None) -> None:
        self._max_tables = max_tables
        self._tables: dict[tuple[Hashable, torch.device], Any] = {}

    def get(self, key: Hashable, device: torch.device | str, build: Callable[[], M]) -> M:
        """The table of `key` on `device`; where it is new, `build` makes it on the CPU.

        The key holds everything that the table depends on, and the kind of table.
        """
        table: M | None = self._tables.get((key, torch.device(device)))
        if table is None:
            table = outside_modes(lambda: self._add(key, torch.device(device), build))
        return table

    def _add(self, key: Hashable, device: torch.device, build: Callable[[], M]) -> M:
        # "cuda" means the current device, which may be another one the next time.
        actual = torch.empty(0, device=device).device
        if actual != device:
            return self.get(key, actual, build)
        table = build() if device == _CPU else self.get(key, _CPU, build).to(device)
        latest = list(self._tables.items())
        if self._max_tables is not None:
            latest = latest[1 - self._max_tables :]
        self._tables = dict([*latest, ((key, device), table)])
        return table
