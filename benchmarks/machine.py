"""The machine and the versions of a run. Names of hosts and users are left out."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import hace

__all__ = ["describe_machine", "describe_versions", "is_busy", "memory_bytes"]

_CPU = Path("/sys/devices/system/cpu")


def describe_machine() -> dict[str, Any]:
    """Processor, caches, memory, system, and how busy it was."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "caches": _caches(),
        "memory_bytes": memory_bytes(),
        "os": _system(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": load(),
    }


def describe_versions() -> dict[str, Any]:
    """Python, torch, this package and the state of its sources, its backends, and the peers."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "libc": " ".join(platform.libc_ver()),
        "hace-kernels": _version("hace-kernels"),
        "git": _git_commit(),
        "backends": [name for name, backend in hace.backends().items() if backend.available],
        "liger-kernel": _version("liger-kernel"),
        "quack-kernels": _version("quack-kernels"),
    }


def memory_bytes(device: str = "cpu") -> int:
    """The memory of the machine, or of the GPU."""
    if device != "cpu":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load() -> float:
    """How many processes wanted to run in the last minute, on average; 0 if it is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def is_busy() -> bool:
    """Whether others use more than a quarter of the machine."""
    return load() > 0.25 * (os.cpu_count() or 1)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _caches() -> dict[str, str]:
    """Each cache that the first core has, "L2 Unified": "1024K"."""
    caches = {}
    for folder in sorted(_CPU.glob("cpu0/cache/index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in _CACHE_FILES)
        except OSError:
            continue
        caches[f"L{level} {kind}"] = size
    return caches


_CACHE_FILES = ("level", "type", "size")


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = platform.system()
    return f"{name}, {platform.machine()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the sources, followed by "+" if they differ from it; None without git."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
