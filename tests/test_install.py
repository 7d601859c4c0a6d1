"""Installing from a clean copy of the sources: with a compiler, without one, with a broken one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "hace_kernels", "python")

USE_IT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import hace, hace_kernels
assert "{target}" in hace.__file__ and "{target}" in hace_kernels.__file__, hace.__file__
import torch
tree = hace.Hierarchy.from_paths(["animal/dog", "animal/cat", "car"])
logits = torch.randn(4, 3, requires_grad=True)
hace.HACELoss(tree)(logits, torch.tensor([0, 1, 2, 0])).backward()
assert logits.grad.abs().sum() > 0
print([str(w.message) for w in caught if "hace" in str(w.message)])
try:
    hace.HACELoss(tree, backend="cpu")(logits, torch.tensor([0, 1, 2, 0]))
    print("cpu runs")
except hace.BackendError as error:
    print(error)
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The files of a source distribution, without anything built."""
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


def install(sources: Path, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HACE_")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-v"),
            *("--target", str(target), str(sources)),
        ],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run(target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the installed package, in a folder where no checkout can shadow it."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=target,
        capture_output=True,
        text=True,
        check=False,
    )


def test_with_a_compiler(sources: Path, tmp_path: Path) -> None:
    installed = install(sources, tmp_path / "site", HACE_REQUIRE_NATIVE="1")
    assert installed.returncode == 0, installed.stdout[-3000:] + installed.stderr
    used = run(tmp_path / "site", "-c", USE_IT.format(target=tmp_path))
    assert used.stdout.split("\n")[:2] == ["[]", "cpu runs"], used.stdout + used.stderr
    verified = run(tmp_path / "site", "-m", "hace.verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "cpu        available" in verified.stdout


def test_without_a_compiler(sources: Path, tmp_path: Path) -> None:
    installed = install(sources, tmp_path / "site", CC="no-such-compiler", CXX="no-such-compiler")
    assert installed.returncode == 0, installed.stdout[-3000:] + installed.stderr
    used = run(tmp_path / "site", "-c", USE_IT.format(target=tmp_path))
    warned, refused = used.stdout.splitlines()
    assert warned.count("slow PyTorch reference") == 1, used.stdout + used.stderr
    assert "backend 'cpu' cannot run" in refused
    assert "install a C++17 compiler" in refused
    verified = run(tmp_path / "site", "-m", "hace.verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "cpu        absent" in verified.stdout


def test_a_broken_build_is_an_error_when_native_code_is_required(
    sources: Path, tmp_path: Path
) -> None:
    with open(sources / "csrc" / "cpu" / "path_log_loss.cpp", "a") as file:
        file.write("this is no C++;\n")
    installed = install(sources, tmp_path / "site", HACE_REQUIRE_NATIVE="1")
    assert installed.returncode != 0
    assert "no C++" in installed.stdout + installed.stderr  # the compiler's own message
