"""The CPU's kernels under AddressSanitizer and UndefinedBehaviorSanitizer: `make test-asan`.

Compiles them anew (minutes) and runs the sample of the parity suite on them, and `hace.verify`, in
processes that the sanitizers watch, PyTorch's tensors included. Exits with 1 if anything fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sanitizers import preloaded, sanitizers_lack

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"

PYTEST = ["-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--backend=cpu"]
SAMPLE = [*PYTEST, "-m", "sampled and not thorough", "-k", "not compile", "tests/ops"]


def library() -> Path:
    """The library with all ops; what has changed since it was made is compiled again, in build/."""
    import torch

    from build_tools import cpp, ninja_build

    os.chdir(ROOT)
    os.environ["CXXFLAGS"] = f"-O1 -g1 {SANITIZE}"
    os.environ["LDFLAGS"] = SANITIZE
    folder, torch_folder = ROOT / "build" / "cpu-sanitized", Path(torch.__file__).parent
    sanitized = cpp.native_library("sanitized.so", cpp.native_objects(torch_folder), torch_folder)
    ninja_build.run(folder, [sanitized])
    return folder / sanitized.path


def main() -> int:
    """Returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        lack = sanitizers_lack(Path(folder))
    if lack is not None:
        print(f"not run: {lack}")
        return 1
    sys.path.insert(0, str(ROOT))
    environment = {**os.environ, "HACE_NATIVE_LIBRARY": str(library()), **preloaded()}
    for command in (["-m", "hace.verify", "--quick"], SAMPLE):
        print("python", *command, flush=True)
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False)
        if done.returncode != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
