"""The CUDA kernels without a GPU: the parity suite on their own source, compiled for the CPU.

tests/cuda_emulation/ is what stands in for CUDA. The other backends' tests run in processes of
their own, for a process has one native library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "csrc" / "ops.cpp", *sorted((ROOT / "csrc" / "cuda").glob("*.cu"))]

COMPILE = ["g++", "-x", "c++", "-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden"]
COMPILE += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
COMPILE += ["-DHACE_CUDA_EMULATION", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
COMPILE += ["-Icsrc", "-Icsrc/cuda", "-Itests/cuda_emulation"]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def compiled(folder: Path, *options: str) -> Path:
    """The library with all ops for CPU tensors, made once for all of pytest's processes."""
    library = folder / "emulated.so"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if library.exists():
            return library
        torch_root = Path(torch.__file__).parent
        headers = ["-isystem", str(torch_root / "include")]

        def compile_one(source: Path) -> str:
            target = str(folder / f"{source.name}.o")
            run([*COMPILE, *options, *headers, "-c", str(source), "-o", target])
            return target

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_one, SOURCES))
        libraries = [f"-L{torch_root / 'lib'}", "-ltorch_cpu", "-lc10"]
        run(["g++", "-shared", *options, *objects, *libraries, "-o", str(folder / "partial.so")])
        (folder / "partial.so").rename(library)
    return library


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def run_suite(library: Path, files: list[str], chosen: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    output = run(
        [*command, *(f"tests/{name}" for name in files), "-k", chosen],
        HACE_CUDA_EMULATION=str(library),
        OMP_NUM_THREADS="1",
        **environment,
    )
    assert " passed" in output


PATHS = ["test_path_log_loss.py", "test_path_log_loss_autograd.py"]
NUMERICS = ["test_path_log_loss_numerics.py", "test_entropy.py"]


@pytest.mark.parametrize(
    "files", [PATHS, NUMERICS], ids=["path_log_loss", "path_log_loss numerics"]
)
def test_parity(shared_folder: Path, files: list[str]) -> None:
    run_suite(compiled(shared_folder / "cuda_emulated"), files, "cuda")


@pytest.mark.parametrize("order", ["backward", "random:1", "random:2"])
def test_any_order_of_threads_and_blocks(shared_folder: Path, order: str) -> None:
    """What a missing barrier spoils depends on who comes first."""
    run_suite(
        compiled(shared_folder / "cuda_emulated"),
        ["test_path_log_loss.py", "test_entropy.py"],
        "cuda and (test_trees or test_widths or test_split or test_deep or test_extremes)",
        HACE_EMULATED_ORDER=order,
        HACE_EMULATED_BLOCK_ORDER=order,
    )
