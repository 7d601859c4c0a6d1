"""`python build_tools/environment.py`: readies the environment of this Python for the build.

torch is installed only if it is missing, and never changed: a constraints file keeps pip from
replacing it later. Triton comes with a torch for GPUs, in the version that this torch needs. Beside
a torch without it, it is installed separately, since its interpreter runs on any machine.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

TORCH = "torch==2.13.0"
OLDEST_TORCH = (2, 11)
TRITON = "triton==3.8.0"
BUILD_REQUIREMENTS = ("setuptools>=77", "pybind11>=2.12", "ninja>=1.11", "numpy>=1.26")


def main() -> None:
    """Raises SystemExit where the torch that is there is too old."""
    has_torch = _version("torch") is not None
    _say(
        f"readies {sys.prefix}: torch, what tests, demo and checks need (0.2 GB to download), "
        "and the kernels (two to four minutes on two cores)"
    )
    if not has_torch:
        _say(
            f"installing {TORCH}. The Python package index has it with CUDA, which takes some 3 GB "
            "and a few minutes; `make install VENV=path` uses an environment that has torch"
        )
        _pip(TORCH)
    torch = _version("torch")
    assert torch is not None
    if tuple(map(int, torch.split(".")[:2])) < OLDEST_TORCH:
        raise SystemExit(
            f"{sys.prefix} has torch {torch} and hace-kernels needs "
            f"{'.'.join(map(str, OLDEST_TORCH))} or later; nothing was changed"
        )
    constraints = Path(sys.prefix) / "hace-constraints.txt"
    constraints.write_text(f"torch=={torch}\n")
    _say(f"torch {torch} is there and stays")
    _pip(*BUILD_REQUIREMENTS, "-c", str(constraints))
    if _version("triton") is None and _triton_exists():
        _say(f"installing {TRITON} (250 MB): this torch brings none")
        _pip(TRITON, "--no-deps")


def _triton_exists() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _say(text: str) -> None:
    print(f"hace-kernels: {text}", flush=True)


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", *arguments], check=True)


if __name__ == "__main__":
    main()
