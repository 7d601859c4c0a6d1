from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import trees

from hace_kernels.backends import backends, device_type


@dataclass(frozen=True)
class Backend:
    """A backend that can run here, and the device to give it tensors on."""

    name: str
    device: torch.device

    def __str__(self) -> str:
        return self.name

    @property
    def names_bad_targets(self) -> bool:
        """Whether a target out of range is an error; a GPU's kernels make NaN of the row."""
        return self.device.type == "cpu" and self.name in ("reference", "cpu")


def runnable_backends() -> list[Backend]:
    return [
        Backend(name, torch.device(device_type(name)))
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


@pytest.fixture
def tree(rng: np.random.Generator) -> trees.Tree:
    """A forest with single-child chains, inner classes and shuffled columns."""
    return trees.random_tree(rng, 20, roots=3, inner=0.3, shuffle=True)


@pytest.fixture
def leafy(rng: np.random.Generator) -> trees.Tree:
    """A tree whose 15 classes are its leaves."""
    return trees.random_tree(rng, 15, shuffle=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
