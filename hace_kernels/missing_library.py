"""Why the compiled library is missing; it depends on where this package was imported from."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["why_missing"]


def why_missing(library: Path, path: Iterable[str] | None = None) -> str:
    """Why the library is missing, and what to do about it.

    Args:
        library: the file that was not found, beside this package's files.
        path: the folders that Python imports from, `sys.path` by default.
    """
    package = library.parent
    sources = package.parent
    if not (sources / "csrc").is_dir():
        return (
            f"{library.name} was not built when the package was installed. Install a C++17 "
            "compiler (g++ or clang++), go to the source folder, and run "
            '`pip install "setuptools>=77" "pybind11>=2.12" "ninja>=1.11"` and '
            "`HACE_REQUIRE_NATIVE=1 pip install --no-build-isolation .`, which stops and shows "
            "what fails if it does again"
        )
    hidden = _other_copy(library, sys.path if path is None else path)
    if hidden is not None:
        return (
            f"{package} is the source folder, which has no {library.name}, and it hides the "
            f"installed package {hidden.parent}: run Python from a folder other than {sources}, or "
            "compile in the source folder with `pip install --no-build-isolation -e .` there"
        )
    return (
        f"{package} is the source folder, in which nothing was compiled yet: run `make install` or "
        f"`pip install --no-build-isolation -e .` in {sources}"
    )


def _other_copy(library: Path, path: Iterable[str]) -> Path | None:
    """The first library of this name in another folder that Python imports from."""
    for entry in path:
        other = Path(entry).resolve() / library.parent.name / library.name
        if other != library.resolve() and other.exists():
            return other
    return None
