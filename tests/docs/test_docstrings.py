"""The examples in docstrings: every public object has one, and it gives what it says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import hace

ROOT = Path(__file__).parents[2]
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


#: A line of a section's items, indented by that of its heading and four.
SEVERAL = re.compile(r"^( *)Attributes:\n(?:\1    .*\n|\n)*?\1    \w+, \w+.*:", re.MULTILINE)


def test_every_attribute_has_a_line_of_its_own() -> None:
    """The site takes `a, b: …` for an attribute `a` of type `b`."""
    files = sorted((ROOT / "python").rglob("*.py"))
    assert len(files) > 50
    assert [f.name for f in files if SEVERAL.search(f.read_text(encoding="utf-8"))] == []
