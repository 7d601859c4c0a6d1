"""The CUDA kernels without a GPU: the parity suite on their own source, compiled for the CPU.

tests/cuda/emulation/ is what stands in for CUDA. The other backends' tests run in processes of
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
from sanitizers import preloaded, sanitizers_lack

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))

COMPILE = ["g++", "-x", "c++", "-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden"]
COMPILE += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
COMPILE += ["-DHACE_CUDA_EMULATION", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
COMPILE += ["-Icsrc", "-Icsrc/cuda", "-Itests/cuda/emulation"]

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
        [*command, *(f"tests/ops/{name}" for name in files), "-k", chosen],
        HACE_CUDA_EMULATION=str(library),
        OMP_NUM_THREADS="1",
        **environment,
    )
    assert " passed" in output


PATHS = ["test_path_log_loss.py", "test_path_log_loss_autograd.py"]
NUMERICS = ["test_path_log_loss_numerics.py", "test_entropy.py"]
TREES = ["test_tree_sum.py", "test_tree_log_prob.py"]
SOFT = ["test_tree_log_loss.py"]


@pytest.mark.parametrize(
    "files",
    [PATHS, NUMERICS, TREES, SOFT],
    ids=["path_log_loss", "path_log_loss numerics", "tree ops", "tree_log_loss"],
)
def test_parity(shared_folder: Path, files: list[str]) -> None:
    run_suite(compiled(shared_folder / "cuda_emulated"), files, "cuda")


def test_verify(shared_folder: Path) -> None:
    """`python -m hace.verify`, which knows every kind of target, takes it for a GPU's backend."""
    library = str(compiled(shared_folder / "cuda_emulated"))
    output = run([sys.executable, "-m", "hace.verify"], HACE_CUDA_EMULATION=library)
    assert "\ncuda " in output


# A part of the suite for what costs more: every kernel, in rows of a block and of several.
FEW = (
    "cuda and (test_trees or test_widths or test_any_weights or deep_path or test_wide_node"
    " or (test_options and float32) or (few_huge_rows and float32) or test_any_table)"
)


@pytest.mark.parametrize("order", ["backward", "random:1"])
def test_any_order_of_threads_and_blocks(shared_folder: Path, order: str) -> None:
    """What a missing barrier spoils depends on who comes first."""
    run_suite(
        compiled(shared_folder / "cuda_emulated"),
        [*PATHS, *NUMERICS, *TREES, *SOFT],
        FEW,
        HACE_EMULATED_ORDER=order,
        HACE_EMULATED_BLOCK_ORDER=order,
    )


def test_trees_beyond_shared_memory(shared_folder: Path) -> None:
    """What of a row does not fit there is kept in memory, by few blocks that take rows in turn."""
    run_suite(
        compiled(shared_folder / "cuda_emulated"),
        [*TREES, *SOFT],
        FEW,
        HACE_EMULATED_SHARED_BYTES="4200",
        HACE_EMULATED_MULTIPROCESSORS="1",
    )


# ---- under AddressSanitizer and UndefinedBehaviorSanitizer ----

SANITIZE = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python process that they watch, PyTorch's tensors in it included."""
    lack = sanitizers_lack(tmp_path_factory.mktemp("sanitizers"))
    if lack is not None:
        pytest.skip(lack)
    return preloaded()


def test_nothing_is_out_of_bounds(shared_folder: Path, watched: dict[str, str]) -> None:
    run_suite(
        compiled(shared_folder / "cuda_sanitized", *SANITIZE),
        [*PATHS, *NUMERICS, *TREES, *SOFT],
        FEW,
        **watched,
    )


def test_the_sanitizer_watches_tensors(shared_folder: Path, watched: dict[str, str]) -> None:
    """A table that sends a kernel beyond its own end is found out."""
    code = """if True:
        import torch
        import hace
        from hace.tables import Tables
        from hace_kernels import path_log_loss
        tree = hace.Hierarchy.from_parents([-1, -1, -1, 0, 0, 1, 1, 2, 2])
        table = Tables.of(tree).paths(hace.weights.HACEWeights(0.7))
        beyond = table._replace(ptr=table.ptr + len(table.start))
        target = torch.tensor([0])
        print(path_log_loss(torch.zeros(1, 6), target, table, backend="cuda"))
        print(path_log_loss(torch.zeros(1, 6), target, beyond, backend="cuda"))
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            **os.environ,
            **watched,
            "HACE_CUDA_EMULATION": str(compiled(shared_folder / "cuda_sanitized", *SANITIZE)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("tensor("), done.stderr
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
