"""Runs parts of the suite again, in processes with other kernels or with other memory.

The kernels are compiled for several instruction sets, and the suite itself runs only the best one.
They also store large results past the caches if their memory was used before, which never happens
with the system's malloc for large results.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hace_kernels import backends, layout

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *("path_log_loss", "path_log_loss_numerics", "column_orders"),
    *("tree_sum", "tree_log_prob", "tree_log_loss", "pixels", "dag_log_loss"),
]
PATHS = [*(f"tests/ops/test_{name}.py" for name in FILES), "tests/hace/test_soft_targets.py"]
#: All kernels are the same to torch.compile, autograd and threads, and the size of a tree does not
#: matter to a vector.
TAKES_LONG = "compiled or derivatives or gradcheck or threads or large or deep or 100_000"


@pytest.mark.skipif(not backends()["cpu"].available, reason="the cpu backend is not built")
@pytest.mark.parametrize(
    ("capability", "amount"),
    [
        ("generic", ("-m", "first and not thorough", "-k", f"not ({TAKES_LONG})")),
        pytest.param("generic", ("-m", "parity"), marks=pytest.mark.thorough),
        pytest.param("avx2", ("-m", "parity"), marks=pytest.mark.thorough),
    ],
    ids=["generic-first", "generic-all", "avx2-all"],
)
def test_narrower_instruction_sets(capability: str, amount: tuple[str, ...]) -> None:
    environment = {**os.environ, "HACE_CPU_CAPABILITY": capability}
    told = subprocess.run(
        [sys.executable, "-c", "from hace_kernels import layout; print(layout.cpu_capability())"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    if told.stdout.strip() != capability:
        pytest.skip(
            f"this processor has {layout.cpu_capability()}, which is less than {capability}"
        )
    run_suite(environment, *amount, *PATHS)


@pytest.mark.thorough
@pytest.mark.skipif(not backends()["cpu"].available, reason="the cpu backend is not built")
def test_memory_that_was_used_before() -> None:
    malloc = ("mmap_max=0", f"trim_threshold={2**40}")
    tunables = ":".join(f"glibc.malloc.{setting}" for setting in malloc)
    environment = {**os.environ, "GLIBC_TUNABLES": tunables}
    run_suite(environment, "-m", "", "-k", "larger_than_the_caches", *PATHS)


def run_suite(environment: dict[str, str], *selection: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist"),
            *("--backend=cpu", *selection),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "parity on cpu: " in done.stdout
