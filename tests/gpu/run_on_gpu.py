"""`make test-gpu`: runs everything that needs a GPU, with a record in benchmarks/results.

This is the parity suite on the GPU's backends and the tests of `test_gpu.py`. With the CUDA
toolkit, a sample of the suite also runs under compute-sanitizer's memcheck and racecheck. Exits
with 1 if anything failed or was cut off. With `--quick`, for a GPU that is lent for minutes, first
comes what once failed on a GPU, then the whole suite on the CUDA kernels, a sample on the Triton
kernels, each of which is compiled first, and a small sample under memcheck. Each step has a time
limit; together they take at most eight minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import hace_kernels
from benchmarks.machine import describe_machine, describe_versions

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
#: Number of processes that share the GPU; most of a test's time is the oracle's, on the CPU.
WORKERS = min(len(os.sched_getaffinity(0)), 12) if find_spec("xdist") else 0


class Step(NamedTuple):
    """A run of pytest, after the words of a `prefix` and with more variables in its environment."""

    name: str
    arguments: list[str]
    seconds: float | None = None  # the limit
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = {}  # noqa: RUF012


#: Every CUDA kernel, for rows of one block and of several blocks.
SANITIZED = ["--backend=gpu", "-m", "sampled", "-k", "cuda"]
SANITIZED_QUICK = ["--backend=gpu", "-m", "first", "-k", "cuda and log_loss"]

#: What failed when the kernels first ran on a GPU, and what is like it.
FAILED = "(derivatives and batches) or gaps"

WHOLE = [Step("parity and what only a GPU shows", ["--backend=gpu", "-m", ""])]
QUICK = [
    Step("what once failed on a GPU", ["--backend=gpu", "-m", "", "-k", FAILED], 100),
    Step("CUDA: parity and what only a GPU shows", ["--backend=gpu", "-m", "", "-k", "cuda"], 170),
    Step(
        "Triton: a sample",
        ["--backend=gpu", "-m", "first or on", "-k", "triton and not test_trees"],
        130,
    ),
]


def sanitized(quick: bool) -> list[Step]:
    """The steps under compute-sanitizer; none where it is not installed."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return []
    options = ("--error-exitcode", "86", "--target-processes", "all")
    # Otherwise PyTorch keeps what is freed, and what lies beyond a tensor is another one's memory.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [
        Step(
            tool,
            SANITIZED_QUICK if quick else SANITIZED,
            80 if quick else None,
            (sanitizer, "--tool", tool, *options),
            environment,
        )
        for tool in (("memcheck",) if quick else ("memcheck", "racecheck"))
    ]


def main() -> int:
    """Runs all steps and returns the exit status: 1 if a step failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a part, in eight minutes")
    quick = parser.parse_args().quick
    under_sanitizer = sanitized(quick)
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "backends": {name: found.reason for name, found in hace_kernels.backends().items()},
        "sanitizer": bool(under_sanitizer),
        "steps": [],
    }
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    path = RESULTS / f"test-gpu-{now}.json"
    for step in [*(QUICK if quick else WHOLE), *under_sanitizer]:
        record["steps"].append(run_step(step))
        path.write_text(json.dumps(record, indent=2) + "\n")  # in case the next step is cut off
    print(f"wrote {path.relative_to(ROOT)}")
    return int(any(step["exit_status"] != 0 for step in record["steps"]))


def wait_for(command: list[str], step: Step) -> int:
    """Runs a command, interrupts it at the step's limit, and leaves none of its processes."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **step.environment}, start_new_session=True
    )
    try:
        try:
            return process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            return process.wait(20)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def run_step(step: Step) -> dict[str, Any]:
    """Runs pytest; returns its exit status, counts, and the names of failed tests.

    At the limit it is interrupted (exit status 2), and the counts are those of what has run.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [*step.prefix, sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
        if WORKERS > 1:
            command += ["-n", str(WORKERS), "--dist", "worksteal"]
        start = time.perf_counter()
        status = wait_for([*command, *step.arguments], step)
        seconds = time.perf_counter() - start
        outcome: dict[str, Any] = {
            "step": step.name,
            "arguments": step.arguments,
            "exit_status": status,
            "cut_off": step.seconds is not None and seconds >= step.seconds,
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
