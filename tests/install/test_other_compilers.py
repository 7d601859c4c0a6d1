"""Clang and a compiler for Windows parse the generic kernels without a warning."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from build_tools import cpp

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path.name for path in (ROOT / "csrc" / "cpu").glob("*_kernel.cpp"))
COMPILERS = ("clang++", "x86_64-w64-mingw32-g++")

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_kernel_is_read_without_a_warning(compiler: str, source: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = [flag for flag in cpp._FLAGS if flag not in ("-fPIC", "-fvisibility=hidden")]
    done = subprocess.run(
        [compiler, *flags, "-Werror", "-fsyntax-only", "-DHACE_ISA=generic", f"csrc/cpu/{source}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
