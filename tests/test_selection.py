"""Tests of the selection: what a sample is, and that no backend misses a parity test."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import selection
import torch
from backend import Backend

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Instance:
    """Those parts of a pytest.Function that the selection uses."""

    params: dict[str, Any]
    backend: str = "cpu"
    markers: list[pytest.Mark] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.callspec = SimpleNamespace(
            params={"backend": Backend(self.backend, torch.device("cpu")), **self.params}
        )

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return [mark for mark in self.markers if mark.name == name]

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return next(iter(self.iter_markers(name)), None)

    def add_marker(self, name: str) -> None:
        self.markers.append(getattr(pytest.mark, name).mark)

    @property
    def names(self) -> set[str]:
        return {mark.name for mark in self.markers} & {"sampled", "first", "thorough"}


def marked(backend: str, *markers: Any) -> dict[str, set[str]]:
    marks = [one.mark for one in markers]
    found: dict[str, Any] = {
        f"{width}{kind}": Instance({"width": width, "kind": kind}, backend, [*marks])
        for width in (1, 2)
        for kind in "ab"
    }
    selection.mark([*found.values()])
    return {name: instance.names for name, instance in found.items() if instance.names}


def test_a_sample_is_what_has_the_listed_values() -> None:
    sample = pytest.mark.sample(width=[2])
    assert marked("cpu", sample) == {"2a": {"sampled", "first"}, "2b": {"sampled"}}


def test_the_first_comes_first_in_the_lists() -> None:
    sample = pytest.mark.sample(width=[2, 1], kind=["b", "a"])
    assert [name for name, names in marked("cpu", sample).items() if "first" in names] == ["2b"]


def test_samples_add_up() -> None:
    samples = pytest.mark.sample(width=[2], kind=["a"]), pytest.mark.sample(width=[1], kind=["b"])
    assert set(marked("cpu", *samples)) == {"1b", "2a"}


def test_without_a_sample_it_is_everything() -> None:
    assert set(marked("cpu")) == {"1a", "1b", "2a", "2b"}


def test_what_is_quick_on_slow_backends() -> None:
    sample = pytest.mark.sample(width=[1])
    on_cuda, on_triton = (marked(name, sample) for name in ("cuda", "triton"))
    assert {name for name, names in on_cuda.items() if "thorough" in names} == {"2a", "2b"}
    assert {name for name, names in on_triton.items() if "thorough" in names} == {"1b", "2a", "2b"}


@pytest.mark.parametrize(
    "sample",
    [
        pytest.mark.sample(width=[3]),
        pytest.mark.sample(widths=[1]),
        pytest.mark.sample(width=[1, 3]),
    ],
)
def test_a_sample_of_nothing_is_an_error(sample: Any) -> None:
    with pytest.raises(ValueError, match="is not a parameter of the test"):
        marked("cpu", sample)


def test_what_takes_long_on_one_backend_is_thorough_there() -> None:
    slow = pytest.mark.thorough_on("triton")
    assert all("thorough" in names for names in marked("triton", slow).values())
    assert not any("thorough" in names for names in marked("cpu", slow).values())


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        (pytest.mark.on("gpus"), "out of reference, cpu"),
        (pytest.mark.thorough_on("cpu"), "thorough_on takes backends"),
        (pytest.mark.not_on("cpu"), "needs a reason"),
        (pytest.mark.sample("cpu"), "by the names of parameters"),
    ],
)
def test_markers_that_mean_nothing(marker: Any, complaint: str) -> None:
    instance: Any = Instance({}, "cpu", [pytest.mark.parity.mark, marker.mark])
    assert complaint in (selection.check(instance) or "")


def test_a_test_with_a_backend_says_where_it_runs() -> None:
    instance: Any = Instance({})
    assert "marked `parity`" in (selection.check(instance) or "")


def collected(place: str, chosen: str) -> set[str]:
    """The names of the test functions that a session would run."""
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "--collect-only", "-q"]
    done = subprocess.run(
        [*command, f"--backend={place}", "-m", chosen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {re.sub(r"\[.*", "", line) for line in done.stdout.splitlines() if "::" in line}


@pytest.mark.thorough
@pytest.mark.parametrize("place", ["cuda-emulated", "triton-interpreted"])
def test_every_parity_test_is_on_every_backend(place: str) -> None:
    """Only the tests that `not_on` leaves out, with a reason, are missing on a backend."""
    everywhere = collected("cpu", f"parity and not {selection.left_out(place)}")
    assert len(everywhere) > 100
    assert everywhere - collected(place, "parity and first") == set()
