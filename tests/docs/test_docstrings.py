"""The examples in docstrings: every public object has one, and it gives what it says."""

from __future__ import annotations

import doctest

import pytest

import hace

PUBLIC = [name for name in hace.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_example(name: str) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(getattr(hace, name), name, globs={})
    assert example.examples, f"hace.{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    told: list[str] = []
    runner.run(example, out=told.append)
    assert not runner.failures, "".join(told)
