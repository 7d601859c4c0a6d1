"""The kernels are compiled for several instruction sets; the suite itself runs the best one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hace_kernels import backends, layout

#: Test files and which of their tests: of the tree ops those of what the instruction set has a part
#: in, the functions, rows in lanes and the ends of blocks.
SUITES = {
    "paths": (
        ["test_path_log_loss.py", "test_path_log_loss_numerics.py", "test_column_orders.py"],
        "not huge_rows",
    ),
    "trees": (
        [
            "test_tree_sum.py",
            "test_tree_log_prob.py",
            "test_tree_log_loss.py",
            "../hace/test_soft_targets.py",
        ],
        "test_trees or numbers_of_rows or gaps or infinity or soft_labels_on_every_shape",
    ),
}


@pytest.mark.skipif(not backends()["cpu"].available, reason="the cpu backend is not built")
@pytest.mark.parametrize("capability", ["generic", "avx2"])
@pytest.mark.parametrize("suite", SUITES)
def test_narrower_instruction_sets(suite: str, capability: str) -> None:
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
    names, tests = SUITES[suite]
    files = [str(Path(__file__).parent / name) for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-k", f"cpu and ({tests})", *files],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
