from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import selection
import torch
from backend import PLACES, Backend, backends_of, prepare

if TYPE_CHECKING:
    import trees


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=list(PLACES),
        help="run only the parity suite, on this backend; by default everything runs, with the "
        "parity suite on the reference and the CPU's kernels",
    )


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until the tests are collected, since that makes many objects but no garbage
    for marker in selection.MARKERS:
        config.addinivalue_line("markers", marker)
    place = config.getoption("--backend")
    prepare(place)
    config.pluginmanager.register(fixture_of(place))
    if place == "triton-interpreted":
        config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning")  # NumPy's, at -inf


def fixture_of(place: str | None) -> object:
    """A plugin with the fixture `backend`, which yields each backend of the session in turn."""

    class Session:
        @pytest.fixture(params=backends_of(place))
        def backend(self, request: pytest.FixtureRequest) -> Backend:
            return request.param

    return Session()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--backend`, skips importing modules that have no test for it."""
    if config.getoption("--backend") is None or collection_path.suffix != ".py":
        return None
    return None if selection.may_run(collection_path.read_text("utf-8")) else True


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Checks and marks the instances of each test function while they are all at hand."""
    found = yield
    if isinstance(found, list) and found and isinstance(found[0], pytest.Function):
        complaint = selection.check(found[0])
        if complaint is None and selection.is_parity(found[0]):
            try:
                selection.mark(found)
            except ValueError as error:
                complaint = str(error)
        if complaint is not None:
            raise collector.CollectError(f"{found[0].originalname}: {complaint}")
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place = config.getoption("--backend")
    chosen = [item for item in items if selection.runs(item, place)]
    kept = set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = chosen
    for item in items:
        if (backend := selection.backend_of(item)) is not None:
            item.user_properties.append(("backend", backend.name))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints how many tests passed on each backend."""
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            name = dict(getattr(report, "user_properties", ())).get("backend")
            if name is not None:
                counts.setdefault(name, Counter())[outcome] += 1
    for name, counted in counts.items():
        told = ", ".join(f"{count} {outcome}" for outcome, count in counted.items())
        terminalreporter.write_line(f"parity on {name}: {told}")


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from visiting every test and module again and again."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def tree(rng: np.random.Generator) -> trees.Tree:
    """A forest with single-child chains, inner classes and shuffled columns."""
    import trees

    return trees.random_tree(rng, 20, roots=3, inner=0.3, shuffle=True)


@pytest.fixture
def leafy(rng: np.random.Generator) -> trees.Tree:
    """A tree whose 15 classes are its leaves."""
    import trees

    return trees.random_tree(rng, 15, shuffle=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the duration of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
