"""Installs from a clean copy of the sources: with a compiler, without one, with a broken one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.thorough  # each test installs by pip into a folder of its own
SOURCES = (
    *("setup.py", "pyproject.toml", "README.md", "LICENSE"),
    *("build_tools", "csrc", "hace_kernels", "python"),
)

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
def sources(tmp_path: Path, compiled: Path) -> Path:
    """The sources with the objects of `compiled`, so that ninja compiles only what has changed."""
    return copy_sources(tmp_path, objects_of=compiled)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources in which everything was compiled once, from scratch."""
    copy = copy_sources(tmp_path_factory.mktemp("compiled"))
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext"],
        cwd=copy,
        env=clean_environment(HACE_REQUIRE_NATIVE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert re.search(r"^\[\d+/\d+\] csrc/", built.stdout, re.M), built.stdout  # its progress
    return copy


def copy_sources(folder: Path, objects_of: Path | None = None) -> Path:
    """The files of a source distribution, and the objects of `objects_of` if it is given."""
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, copy / name)
    if objects_of is not None:
        for kept in objects_of.glob("build/native-*"):
            shutil.copytree(kept, copy / "build" / kept.name)
    return copy


def clean_environment(**changes: str) -> dict[str, str]:
    """This environment without the variables that ask for a certain build, plus the changes."""
    asked = ("HACE_", "PYTHONPATH", "FORCE_CUDA", "CUDA_HOME")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(asked)}
    return {**clean, "HACE_BUILD": "cpu", **changes}


def install(sources: Path, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-v"),
            *("--target", str(target), str(sources)),
        ],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )


def run(target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the installed package, in a folder where no checkout can hide it."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=clean_environment(PYTHONPATH=str(target)),
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
    verified = run(tmp_path / "site", "-m", "hace.verify", "--quick")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "cpu        available" in verified.stdout


def test_without_a_compiler(sources: Path, tmp_path: Path) -> None:
    installed = install(sources, tmp_path / "site", CC="no-such-compiler", CXX="no-such-compiler")
    assert installed.returncode == 0, installed.stdout[-3000:] + installed.stderr
    used = run(tmp_path / "site", "-c", USE_IT.format(target=tmp_path))
    warned, refused = used.stdout.splitlines()
    assert warned.count("slow PyTorch reference") == 1, used.stdout + used.stderr
    assert "backend 'cpu' cannot run" in refused
    assert "Install a C++17 compiler" in refused
    verified = run(tmp_path / "site", "-m", "hace.verify", "--quick")
    assert verified.returncode != 0, verified.stdout + verified.stderr
    assert "cpu        absent" in verified.stdout
    assert "nothing to verify" in verified.stderr


def test_a_broken_build_is_an_error_when_native_code_is_required(
    sources: Path, tmp_path: Path
) -> None:
    with open(sources / "csrc" / "cpu" / "path_log_loss.cpp", "a") as file:
        file.write("this is no C++;\n")
    installed = install(sources, tmp_path / "site", HACE_REQUIRE_NATIVE="1")
    assert installed.returncode != 0
    assert "no C++" in installed.stdout + installed.stderr  # the compiler's own message


# ---- CUDA ----

#: An nvcc that knows one GPU but fails to compile anything.
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
    (tmp_path / "sitecustomize.py").write_text("import torch; torch.version.cuda = '13.0'")
    installed = install(
        sources,
        tmp_path / "site",
        HACE_BUILD="auto",
        CUDA_HOME=str(broken_cuda),
        PYTHONPATH=str(tmp_path),
    )
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
    assert "HACE_BUILD must be one of auto, cpu, cuda, python, got 'rocm'" in (
        installed.stdout + installed.stderr
    )


# ---- without torch in the build environment ----


@pytest.fixture
def without_torch(tmp_path: Path) -> str:
    """A PYTHONPATH on which torch is not found, as in pip's own build environment."""
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' "
        "else find(name, *rest)\n"
    )
    return str(folder)


def test_without_torch_the_message_names_the_cause(
    sources: Path, tmp_path: Path, without_torch: str
) -> None:
    installed = install(sources, tmp_path / "site", PYTHONPATH=without_torch)
    assert installed.returncode != 0
    output = installed.stdout + installed.stderr
    assert "torch is not in the build environment" in output
    assert "--no-build-isolation" in output
    assert "compiler" not in output.split("torch is not in the build environment")[1][:400]
    assert "running build_ext" not in output  # it is found before pip downloads anything


def test_the_torch_free_install_is_asked_for(
    sources: Path, tmp_path: Path, without_torch: str
) -> None:
    installed = install(sources, tmp_path / "site", HACE_BUILD="python", PYTHONPATH=without_torch)
    assert installed.returncode == 0, installed.stdout[-3000:] + installed.stderr
    # The name says that it works on any platform, so pip does not confuse it with a compiled wheel.
    assert "py3-none-any.whl" in installed.stdout
    used = run(tmp_path / "site", "-c", USE_IT.format(target=tmp_path))
    assert "slow PyTorch reference" in used.stdout, used.stdout + used.stderr
