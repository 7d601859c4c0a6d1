"""Installing from a clean copy of the sources: with a compiler, without one, with a broken one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
        env={**clean, "HACE_BUILD": "cpu", **environment},
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


# ---- CUDA ----

#: An nvcc that knows a GPU and compiles nothing.
BROKEN_NVCC = """#!/bin/sh
if [ "$1" = --list-gpu-arch ]; then echo compute_90; exit 0; fi
echo "no kernel pleases me" >&2
exit 1
"""


@pytest.fixture
def broken_cuda(tmp_path: Path) -> Path:
    """A CUDA toolkit whose nvcc fails."""
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(BROKEN_NVCC)
    nvcc.chmod(0o755)
    return tmp_path / "toolkit"


@pytest.mark.parametrize("asked", [{"HACE_BUILD": "cuda"}, {"FORCE_CUDA": "1"}], ids=str)
def test_a_failing_nvcc_is_an_error_where_cuda_was_asked_for(
    sources: Path, tmp_path: Path, broken_cuda: Path, asked: dict[str, str]
) -> None:
    installed = install(sources, tmp_path / "site", CUDA_HOME=str(broken_cuda), **asked)
    assert installed.returncode != 0
    assert "no kernel pleases me" in installed.stdout + installed.stderr


def test_a_failing_nvcc_leaves_a_warning_and_the_rest(
    sources: Path, tmp_path: Path, broken_cuda: Path
) -> None:
    installed = install(sources, tmp_path / "site", HACE_BUILD="auto", CUDA_HOME=str(broken_cuda))
    assert installed.returncode == 0, installed.stdout[-3000:] + installed.stderr
    output = installed.stdout + installed.stderr
    assert "built without the CUDA kernels" in output
    assert "no kernel pleases me" in output
    used = run(tmp_path / "site", "-c", USE_IT.format(target=tmp_path))
    assert "cpu runs" in used.stdout, used.stdout + used.stderr


def test_a_missing_nvcc_is_an_error_where_cuda_was_asked_for(sources: Path, tmp_path: Path) -> None:
    installed = install(
        sources,
        tmp_path / "site",
        HACE_BUILD="cuda",
        CUDA_HOME=str(tmp_path),
        PATH=os.pathsep.join(
            folder
            for folder in os.environ["PATH"].split(os.pathsep)
            if not Path(folder, "nvcc").exists()
        ),
    )
    assert installed.returncode != 0
    assert "nvcc is not found" in installed.stdout + installed.stderr


def test_a_build_of_another_name_is_refused(sources: Path, tmp_path: Path) -> None:
    installed = install(sources, tmp_path / "site", HACE_BUILD="rocm")
    assert installed.returncode != 0
    assert "HACE_BUILD must be auto, cpu or cuda, got 'rocm'" in (
        installed.stdout + installed.stderr
    )
