"""Every public object has an example in its docstring, and the example gives the stated result."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Literal, get_origin, is_typeddict

import pytest

import hace
from hace import decode, functional, metrics, nn, optim, pictures

NOT_MADE = (optim.TileOptimizer, decode.Explanation, metrics.Reliability, metrics.Comparison)


def is_result(found: object) -> bool:
    """Whether users only receive or pass the object: named tuples, literals, base classes."""
    if get_origin(found) is Literal or not callable(found) or found in NOT_MADE:
        return True
    return hasattr(found, "_fields") or is_typeddict(found)


ROOT = Path(__file__).parents[2]
PUBLIC = {f"hace.{name}": getattr(hace, name) for name in hace.__all__ if name != "__version__"}
PUBLIC |= {
    f"{module.__name__}.{name}": found
    for module in (functional, decode, metrics, nn, optim)
    for name in module.__all__
    if not is_result(found := getattr(module, name))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_example(name: str) -> None:
    run_example(PUBLIC[name], name)


def test_example_of_torchmetrics() -> None:
    module = pytest.importorskip("hace.torchmetrics", reason="torchmetrics is not installed")
    run_example(module, module.__name__)
    for name in module.__all__:
        run_example(getattr(module, name), name)


@pytest.mark.parametrize("name", pictures.__all__)
def test_example_of_a_picture(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    run_example(getattr(pictures, name), name)
    (drawn,) = tmp_path.iterdir()
    assert drawn.stat().st_size > 5000
    matplotlib.pyplot.close("all")


def run_example(found: object, name: str) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(found, name, globs={})
    assert example.examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    told: list[str] = []
    runner.run(example, out=told.append)
    assert not runner.failures, "".join(told)


#: A section "Attributes" with a line for several attributes, four further in than the heading.
SEVERAL = re.compile(r"^( *)Attributes:\n(?:\1    .*\n|\n)*?\1    \w+, \w+.*:", re.MULTILINE)


def test_every_attribute_has_a_line_of_its_own() -> None:
    """The site would show `a, b: …` as an attribute `a` of type `b`."""
    files = sorted((ROOT / "python").rglob("*.py"))
    assert len(files) > 50
    assert [f.name for f in files if SEVERAL.search(f.read_text(encoding="utf-8"))] == []
