from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hace_kernels import triton
from hace_kernels.backends import backends

#: Where a backend's kernels run; "cpu" for those that run anywhere.
DEVICES = {"triton": triton.device_type, "cuda": "cuda"}


@dataclass(frozen=True)
class Backend:
    """A backend that can run here, and the device to give it tensors on."""

    name: str
    device: torch.device

    def __str__(self) -> str:
        return self.name


def runnable_backends() -> list[Backend]:
    return [
        Backend(name, torch.device(DEVICES.get(name, "cpu")))
        for name, backend in backends().items()
        if backend.available
    ]


@pytest.fixture(params=runnable_backends(), ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that can run here in turn."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
