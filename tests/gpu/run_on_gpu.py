"""`make test-gpu`: runs everything that needs a GPU, with a record in benchmarks/results.

This is the parity suite on the GPU's backends and the tests of `test_gpu.py`. With the CUDA
toolkit, a sample of the suite also runs under compute-sanitizer's memcheck and racecheck. Exits
with 1 if anything failed. With `--quick`, the whole suite runs on the CUDA kernels, a sample on the
Triton kernels, each of which is compiled first, and nothing under compute-sanitizer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hace_kernels
from benchmarks.machine import describe_machine, describe_versions

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
#: Number of processes that share the GPU; most of a test's time is the oracle's, on the CPU.
WORKERS = min(len(os.sched_getaffinity(0)), 12) if find_spec("xdist") else 0
#: Every CUDA kernel, for rows of one block and of several blocks.
SANITIZED = ["--backend=gpu", "-m", "sampled", "-k", "cuda"]

WHOLE = {"parity and what only a GPU shows": ["--backend=gpu", "-m", ""]}
QUICK = {
    "CUDA: parity and what only a GPU shows": ["--backend=gpu", "-m", "", "-k", "cuda"],
    "Triton: a sample": ["--backend=gpu", "-m", "first or on", "-k", "triton and not test_trees"],
}


def main() -> int:
    """Runs all steps and returns the exit status: 1 if a step failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a part, in a few minutes")
    quick = parser.parse_args().quick
    sanitizer = shutil.which("compute-sanitizer")
    steps = [(name, [], arguments) for name, arguments in (QUICK if quick else WHOLE).items()]
    if not quick and sanitizer is not None:
        for tool in ("memcheck", "racecheck"):
            options = ["--error-exitcode", "86", "--target-processes", "all"]
            steps.append((tool, [sanitizer, "--tool", tool, *options], SANITIZED))
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "backends": {name: found.reason for name, found in hace_kernels.backends().items()},
        "sanitizer": sanitizer is not None and not quick,
        "steps": [],
    }
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    path = RESULTS / f"test-gpu-{now}.json"
    for step in steps:
        record["steps"].append(run_step(*step))
        path.write_text(json.dumps(record, indent=2) + "\n")  # in case the next step is cut off
    print(f"wrote {path.relative_to(ROOT)}")
    return int(any(step["exit_status"] != 0 for step in record["steps"]))


def run_step(name: str, prefix: list[str], arguments: list[str]) -> dict[str, Any]:
    """Runs pytest after a prefix; returns its exit status, counts, and names of failed tests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [*prefix, sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
        if WORKERS > 1:
            command += ["-n", str(WORKERS), "--dist", "worksteal"]
        start = time.perf_counter()
        status = subprocess.run([*command, *arguments], cwd=ROOT, check=False).returncode
        seconds = time.perf_counter() - start
        outcome: dict[str, Any] = {
            "step": name,
            "arguments": arguments,
            "exit_status": status,
            "seconds": round(seconds),
        }
        if report.exists():
            suite = ElementTree.parse(report).getroot().find("testsuite")
            assert suite is not None
            for count in ("tests", "failures", "errors", "skipped"):
                outcome[count] = int(suite.attrib[count])
            outcome["failed"] = [
                f"{case.get('classname')}.{case.get('name')}"
                for case in suite.iter("testcase")
                if case.find("failure") is not None or case.find("error") is not None
            ]
    return outcome


if __name__ == "__main__":
    sys.exit(main())
