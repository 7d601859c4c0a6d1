"""Where tests run: the backends of a session, which `pytest --backend` chooses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from rows import limit_rows

#: The values of `--backend`, and the backends that each of them runs. Without the option, a session
#: has the backends that run in any process: the reference and the CPU's kernels.
PLACES: dict[str, tuple[str, ...]] = {
    "reference": ("reference",),
    "cpu": ("cpu",),
    "cuda-emulated": ("cuda",),
    "triton-interpreted": ("triton",),
    "gpu": ("triton", "cuda"),
}
IN_PROCESS = ("reference", "cpu")

#: Marks tests of an error's message.
kernels_give_nan = pytest.mark.not_on(
    "cuda-emulated",
    "triton-interpreted",
    "gpu",
    reason="a GPU's kernels give NaN without a message",
)

#: Marks tests that call a backend on many rows and need all of them.
many_rows = pytest.mark.not_on(
    "triton-interpreted", reason="Triton's interpreter takes about 0.1 s per row"
)


@dataclass(frozen=True)
class Backend:
    """A backend, the device of its tensors, and how deep a tree it can handle in a test's time."""

    name: str
    device: torch.device

    #: Number of levels of the trees in tests of deep trees.
    levels: int = 10_000

    def __str__(self) -> str:
        return self.name

    @property
    def names_bad_targets(self) -> bool:
        """Whether a target out of range is an error; a GPU's kernels return NaN for the row."""
        return self.name in ("reference", "cpu") and self.device.type == "cpu"


def prepare(place: str | None) -> None:
    """Sets up this process for a session, before hace_kernels and triton are imported."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # the worker shares the cores with others
        torch.set_num_threads(1)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if place == "cuda-emulated":
        import emulator

        assert "hace_kernels" not in sys.modules, "hace_kernels has loaded the CPU's library"
        os.environ.setdefault("HACE_CUDA_EMULATION", str(emulator.library()))
        torch.set_num_threads(1)
    elif place == "triton-interpreted":
        assert "hace_kernels" not in sys.modules, "hace_kernels has looked for Triton's compiler"
        os.environ["TRITON_INTERPRET"] = "1"
        import interpreter

        interpreter.prepare()
        limit_rows(3)
        torch.set_num_threads(1)
    elif place == "gpu" and not torch.cuda.is_available():
        raise pytest.UsageError(
            "--backend=gpu needs a GPU that torch can use; torch.cuda.is_available() is False here"
        )


def backends_of(place: str | None) -> Sequence[Any]:
    """A session's backends as parameters of tests; those that cannot run are skipped."""
    from hace_kernels.backends import backends

    known = backends()
    device = torch.device("cuda" if place == "gpu" else "cpu")
    parameters = []
    for name in IN_PROCESS if place is None else PLACES[place]:
        # Autograd's backward of a slice takes time and memory for the whole row, and the reference
        # takes one or more slices per level.
        backend = Backend(name, device, levels=1500 if name == "reference" else 10_000)
        if place == "triton-interpreted":
            backend = Backend(name, device, levels=40)
        lack = "" if known[name].available else f"backend {name!r}: {known[name].reason}"
        marks = [pytest.mark.skip(reason=lack)] if lack else []
        parameters.append(pytest.param(backend, id=name, marks=marks))
    return parameters
