"""What has to be in the build environment; checked before anything is compiled."""

from __future__ import annotations

import importlib.util

import setuptools

_SETUPTOOLS = 77  # the first to know `license = "MIT"` in pyproject.toml

_NO_TORCH = """
hace-kernels compiles its kernels against torch, and torch is not in the build environment.
pip builds in an environment of its own unless told otherwise. Install torch, and then

    pip install "setuptools>=77" "pybind11>=2.12" "ninja>=1.11"
    pip install --no-build-isolation .

HACE_BUILD=python installs without kernels (the PyTorch reference serves, slowly).
"""


def check_setuptools() -> None:
    """Raises SystemExit where setuptools cannot read pyproject.toml."""
    found = setuptools.__version__
    if int(found.split(".")[0]) < _SETUPTOOLS:
        raise SystemExit(
            f"hace-kernels needs setuptools>={_SETUPTOOLS} to build, and this environment has "
            f'{found}: pip install --upgrade "setuptools>={_SETUPTOOLS}"'
        )


def check() -> None:
    """Raises SystemExit if packages that compilation needs are missing."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(_NO_TORCH)
    missing = [
        f'"{name}>={version}"'
        for name, version in (("pybind11", "2.12"), ("ninja", "1.11"))
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise SystemExit(
            f"hace-kernels needs {' and '.join(missing)} in this environment to build: "
            f"pip install {' '.join(missing)}"
        )
