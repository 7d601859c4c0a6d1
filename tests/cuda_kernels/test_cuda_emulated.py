"""The CUDA kernels without a GPU: the parity suite on their own source, compiled for the CPU.

`pytest --backend=cuda-emulated` runs it, with tests/cuda_kernels/emulation/ in CUDA's place. Here
its sample runs again with other orders of threads, with little shared memory, and under
AddressSanitizer and UndefinedBehaviorSanitizer. Each of these has a process of its own, since a
process can load only one native library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import emulator
import pytest
from sanitizers import MEMORY

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
    pytest.mark.thorough,
]


def run(library: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "HACE_CUDA_EMULATION": str(library), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run_sample(library: Path, **environment: str) -> None:
    command = ["-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command += ["--backend=cuda-emulated", "-m", "sampled and not thorough", "tests/ops"]
    done = run(library, *command, **environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "parity on cuda: " in done.stdout


def test_verify() -> None:
    """`python -m hace.verify`, which tests every kind of target, accepts it as a GPU's backend."""
    done = run(emulator.library(), "-m", "hace.verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\ncuda " in done.stdout


def test_a_gpu_that_it_is_not_compiled_for() -> None:
    """`auto` takes another backend there, and "cuda" says why it cannot run."""
    code = """if True:
        import torch
        from hace_kernels.backends import choose
        device = torch.device("cpu")
        print(choose("path_log_loss", "auto", device, torch.float32))
        choose("path_log_loss", "cuda", device, torch.float32)
    """
    done = run(emulator.library(), "-c", code)
    assert (done.returncode, done.stdout) == (0, "cuda\n"), done.stderr
    done = run(emulator.library(), "-c", code, HACE_EMULATED_OTHER_GPU="1")
    assert (done.returncode, done.stdout) == (1, "reference\n"), done.stderr
    assert "no kernel image is available" in done.stderr
    assert "BackendError" in done.stderr


@pytest.mark.parametrize("order", ["backward", "random:1"])
def test_any_order_of_threads_and_blocks(order: str) -> None:
    """What a missing barrier spoils depends on which thread comes first."""
    run_sample(emulator.library(), HACE_EMULATED_ORDER=order, HACE_EMULATED_BLOCK_ORDER=order)


def test_trees_beyond_shared_memory() -> None:
    """If a row does not fit, the rest is in global memory, and few blocks take rows in turn."""
    run_sample(
        emulator.library(),
        HACE_EMULATED_SHARED_BYTES="4200",
        HACE_EMULATED_MULTIPROCESSORS="1",
    )


# ---- under AddressSanitizer and UndefinedBehaviorSanitizer ----


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python process that they watch, including PyTorch's tensors."""
    lack = MEMORY.lack(tmp_path_factory.mktemp("sanitizers"))
    if lack is not None:
        pytest.skip(lack)
    return MEMORY.preloaded()


def test_nothing_is_out_of_bounds(watched: dict[str, str]) -> None:
    run_sample(emulator.library("cuda-sanitized", *emulator.SANITIZE), **watched)


def test_the_sanitizer_watches_tensors(watched: dict[str, str]) -> None:
    """A table that makes a kernel read beyond the table's end is detected."""
    code = """if True:
        import torch
        import hace
        from hace.tables import Tables
        from hace_kernels import path_log_loss
        tree = hace.Hierarchy.from_parents([-1, -1, -1, 0, 0, 1, 1, 2, 2])
        table = Tables.of(tree).paths(hace.weights.HACEWeights(0.7))
        beyond = table._replace(ptr=table.ptr + len(table.start))
        target = torch.tensor([0])
        loss = path_log_loss(torch.zeros(1, 6), target, table, backend="cuda")
        print(loss, flush=True)
        print(path_log_loss(torch.zeros(1, 6), target, beyond, backend="cuda"))
    """
    library = emulator.library("cuda-sanitized", *emulator.SANITIZE)
    done = run(library, "-c", code, **watched)
    assert done.stdout.startswith("tensor("), done.stderr
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
