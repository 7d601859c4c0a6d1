"""The kernels are compiled for several instruction sets; the suite itself runs the best one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hace_kernels import backends, layout

SUITE = ("test_path_log_loss.py", "test_path_log_loss_numerics.py")


@pytest.mark.skipif(not backends()["cpu"].available, reason="the cpu backend is not built")
@pytest.mark.parametrize("capability", ["generic", "avx2"])
def test_narrower_instruction_sets(capability: str) -> None:
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
    suite = [str(Path(__file__).with_name(name)) for name in SUITE]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-k", "cpu and not huge_rows", *suite],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
