"""Runs the CPU's kernels under sanitizers.

`make test-asan` runs them under AddressSanitizer and UndefinedBehaviorSanitizer, and
`make test-tsan` under ThreadSanitizer. The kernels are compiled again for that, which takes
minutes. Then the sample of the parity suite runs on them, and `hace.verify` or the tests of
threads, in processes that the sanitizers watch. AddressSanitizer watches PyTorch's tensors, too.
Exits with 1 if anything fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from sanitizers import MEMORY, THREADS, Sanitizers

ROOT = Path(__file__).resolve().parents[2]

PYTEST = ["-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
PARITY = [*PYTEST, "--backend=cpu"]
SAMPLE = [*PARITY, "-m", "sampled and not thorough", "-k", "not compile", "tests/ops"]

# The tests of threads, in the parity suite and in OTHERS. ThreadSanitizer ends the process when it
# finds something, and its message would be lost if pytest captured the output.
THREADS_TESTS = ["--capture=no", "-m", "not thorough and not large", "-k", "threads"]
OTHERS = ["tests/ops/test_path_stages.py", "tests/hace/test_module_life.py"]


@dataclass(frozen=True)
class Watch:
    """What is run under which sanitizers."""

    sanitizers: Sanitizers
    folder: str  # where the library is, in build/
    commands: tuple[list[str], ...]
    environment: dict[str, str] = field(default_factory=dict)


WATCHES = {
    "memory": Watch(MEMORY, "cpu-sanitized", (["-m", "hace.verify", "--quick"], SAMPLE)),
    # Four threads on any number of processors, which MKL would not use by itself.
    "threads": Watch(
        THREADS,
        "cpu-tsan",
        (
            [*PARITY, *THREADS_TESTS, "tests/ops"],
            [*PYTEST, *THREADS_TESTS, *OTHERS],
            [*SAMPLE, "--capture=no"],
        ),
        {"OMP_NUM_THREADS": "4", "MKL_DYNAMIC": "FALSE", "OMP_WAIT_POLICY": "passive"},
    ),
}


def library(watch: Watch) -> Path:
    """The path of the library with all ops, in build/; what has changed is compiled again."""
    import torch

    from build_tools import cpp, ninja_build

    os.chdir(ROOT)
    os.environ["CXXFLAGS"] = f"-O1 -g1 {watch.sanitizers.flags}"
    os.environ["LDFLAGS"] = watch.sanitizers.flags
    folder, torch_folder = ROOT / "build" / watch.folder, Path(torch.__file__).parent
    sanitized = cpp.native_library("sanitized.so", cpp.native_objects(torch_folder), torch_folder)
    ninja_build.run(folder, [sanitized])
    return folder / sanitized.path


def main(watch: Watch) -> int:
    """Runs everything and returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        lack = watch.sanitizers.lack(Path(folder))
    if lack is not None:
        print(f"not run: {lack}")
        return 1
    sys.path.insert(0, str(ROOT))
    watched = {"HACE_NATIVE_LIBRARY": str(library(watch)), **watch.sanitizers.preloaded()}
    environment = {**os.environ, **watched, **watch.environment}
    for command in watch.commands:
        print("python", *command, flush=True)
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False)
        if done.returncode != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(WATCHES[sys.argv[1]]))
