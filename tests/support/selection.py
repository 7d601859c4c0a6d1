"""Decides which tests a session runs: markers `parity`, `on`, `not_on`, `sample` and `thorough`.

Every backend must pass the tests that are marked `parity`. Such a test takes the argument `backend`
and runs once per backend of the session (backend.py). A slow backend has time for only a part:

    @pytest.mark.sample(dtype=[torch.float32], shape=["chain", "nodes"])

beside a test says which of its instances form the sample: those that have one of the listed values
for each listed name, and any value for the other names. Several such markers add up. Without any,
the sample is the whole test. An instance in the sample gets the marker `sampled`, and the one that
comes first by the order of the lists also gets `first`. `make test` runs the sample on the
reference and the emulated CUDA kernels, and only the first instance of each test on the interpreted
Triton kernels. All other instances are marked `thorough` there, and so are tests that are
`thorough_on` the backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from backend import PLACES, Backend

__all__ = [
    "MARKERS",
    "backend_of",
    "check",
    "is_parity",
    "left_out",
    "mark",
    "may_run",
    "runs",
    "thoroughly",
]


def left_out(place: str) -> str:
    """The name of the marker of tests that are not on this place, in a form that `-m` can parse."""
    return f"not_on_{place.replace('-', '_')}"


MARKERS = [
    "parity: a test that every backend must pass; `--backend` says where it runs",
    "on(place): runs only in sessions with that --backend",
    "not_on(place, reason): a parity test that this --backend leaves out, and why",
    "thorough_on(backend): a parity test that takes long on this backend, so is `thorough` there",
    "sample(name=[value, ...]): the parameters with which slow backends run a test",
    "sampled: an instance in its test's sample (set by the test suite)",
    "first: the first instance in its test's sample (set by the test suite)",
    "thorough: left out of `make test`; `make test-all` runs it",
    *(
        f"{left_out(place)}: a test that is not_on({place!r}, ...) (set by the test suite)"
        for place in PLACES
    ),
]

#: Which instances of a test `make test` runs on backends that cannot run everything quickly.
QUICK = {"reference": "sampled", "cuda": "sampled", "triton": "first"}


def thoroughly(*values: Any) -> list[Any]:
    """Parameters for which `make test` has no time; a tuple is the values of several names."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.thorough)
        for value in values
    ]


def parameters(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def backend_of(item: pytest.Item) -> Backend | None:
    """The backend that a test is given, if it takes one."""
    given = parameters(item).get("backend")
    return given if isinstance(given, Backend) else None


def is_parity(item: pytest.Item) -> bool:
    """Whether a test runs once per backend.

    A test without the argument `backend` does not, even in a module marked `parity`: it checks
    what all backends share.
    """
    return item.get_closest_marker("parity") is not None and backend_of(item) is not None


def runs(item: pytest.Item, place: str | None) -> bool:
    """Whether a test belongs to the session."""
    places = [name for marker in item.iter_markers("on") for name in marker.args]
    if places:
        return place in places
    if place is None and not is_parity(item):
        return True
    runs_on = place or str(backend_of(item))
    left_out = any(runs_on in marker.args for marker in item.iter_markers("not_on"))
    return is_parity(item) and not left_out


def may_run(source: str) -> bool:
    """Whether a module with this source may have tests for a session with `--backend`."""
    return "mark.parity" in source or "mark.on(" in source


def check(item: pytest.Function) -> str | None:
    """A complaint about a test's markers, or None if they are right."""
    markers = {name: list(item.iter_markers(name)) for name in ("on", "not_on", "sample")}
    for marker in (*markers["on"], *markers["not_on"]):
        unknown = set(marker.args) - set(PLACES)
        if unknown or not marker.args:
            return f"{marker.name} takes places out of {', '.join(PLACES)}, got {marker.args}"
    for marker in item.iter_markers("thorough_on"):
        if not marker.args or set(marker.args) - set(QUICK):
            return f"thorough_on takes backends out of {', '.join(QUICK)}, got {marker.args}"
    if any(not marker.kwargs.get("reason") for marker in markers["not_on"]):
        return "not_on needs a reason"
    if backend_of(item) is not None and not is_parity(item) and not markers["on"]:
        return "a test that takes `backend` must be marked `parity`, or `on` with its places"
    if any(marker.args or not marker.kwargs for marker in markers["sample"]):
        return "sample takes lists of values by the names of parameters"
    return None


def rank(item: pytest.Function, sample: pytest.Mark) -> tuple[int, ...] | None:
    """The indices of an instance's parameters in a sample's lists, or None if it is not sampled."""
    given, places = parameters(item), []
    for name, values in sample.kwargs.items():
        if given[name] not in values:
            return None
        places.append(list(values).index(given[name]))
    return tuple(places)


def mark(instances: Sequence[pytest.Function]) -> None:
    """Adds the markers `sampled`, `first` and `thorough` to all instances of one parity test.

    Raises:
        ValueError: if a sample names a parameter or value that the test does not have.
    """
    samples = list(instances[0].iter_markers("sample"))
    for sample in samples:
        for name, values in sample.kwargs.items():
            known = [parameters(item).get(name, pytest) for item in instances]
            for value in values:
                if value not in known:
                    raise ValueError(f"sample({name}=[{value!r}]) is not a parameter of the test")
    by_backend: dict[str, list[tuple[tuple[int, ...], pytest.Function]]] = {}
    for item in instances:
        ranks = [
            (number, *found)
            for number, sample in enumerate(samples)
            if (found := rank(item, sample)) is not None
        ]
        group = by_backend.setdefault(str(backend_of(item)), [])
        if not samples:
            group.append(((len(group),), item))
        elif ranks:
            group.append((min(ranks), item))
    for group in by_backend.values():
        for _, item in group:
            item.add_marker("sampled")
        min(group, key=lambda ranked: ranked[0])[1].add_marker("first")
    empty = {str(backend_of(item)) for item in instances} - set(by_backend)
    if empty:
        raise ValueError(f"the sample is empty for {', '.join(sorted(empty))}")
    for item in instances:
        for marker in item.iter_markers("not_on"):
            for name in marker.args:
                item.add_marker(left_out(name))
    for item in instances:
        backend = str(backend_of(item))
        amount = QUICK.get(backend)
        takes_long = any(backend in marker.args for marker in item.iter_markers("thorough_on"))
        if takes_long or (amount is not None and item.get_closest_marker(amount) is None):
            item.add_marker("thorough")
