"""Without its library, the package says which of three causes it has and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hace_kernels.missing_library import why_missing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The package in a source folder in which nothing is compiled."""
    (tmp_path / "checkout" / "csrc").mkdir(parents=True)
    (tmp_path / "checkout" / "hace_kernels").mkdir()
    return tmp_path / "checkout" / "hace_kernels"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an installed package, including its library."""
    package = tmp_path / "site" / "hace_kernels"
    package.mkdir(parents=True)
    (package / "_native.so").touch()
    return tmp_path / "site"


def test_a_checkout_that_hides_the_installed_package(checkout: Path, site: Path) -> None:
    told = why_missing(checkout / "_native.so", [str(checkout.parent), str(site)])
    assert f"{checkout} is the source folder" in told
    assert f"hides the installed package {site / 'hace_kernels'}" in told
    assert f"from a folder other than {checkout.parent}" in told
    assert "compiler" not in told


def test_a_checkout_and_nothing_installed(checkout: Path, tmp_path: Path) -> None:
    told = why_missing(checkout / "_native.so", [str(checkout.parent), str(tmp_path)])
    assert f"{checkout} is the source folder, in which nothing was compiled yet" in told
    assert "make install" in told


def test_installed_without_a_compiler(tmp_path: Path) -> None:
    package = tmp_path / "hace_kernels"
    package.mkdir()
    told = why_missing(package / "_native.so", [str(tmp_path)])
    assert "was not built when the package was installed. Install a C++17 compiler" in told
    assert "pip install --no-build-isolation ." in told  # by folder: an index may lack it


def test_imported_from_a_checkout_beside_an_installed_copy(tmp_path: Path, site: Path) -> None:
    """End to end: the warning at import, and the error of a backend that was asked for."""
    folder = tmp_path / "sources"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "hace_kernels", folder / "hace_kernels", ignore=ignored)
    shutil.copytree(ROOT / "csrc" / "layout", folder / "csrc" / "layout")
    program = "import hace_kernels; print(hace_kernels.backends()['cpu'].reason)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", str(site)])},
        capture_output=True,
        text=True,
        check=True,
    )
    for told in (done.stdout, done.stderr):
        assert "hides the installed package" in told
        assert str(site / "hace_kernels") in told
        assert "compiler" not in told
