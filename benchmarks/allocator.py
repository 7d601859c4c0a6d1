"""Settings of glibc's malloc, so that times are those of the losses and not of fresh pages.

By default malloc gives the buffers of a step back to the system. The next step then waits for pages
that the system has to clear first, which takes longer than any of the losses. The settings are read
once, when a process starts.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys

__all__ = ["default_environment", "ensure_kept", "give_back", "is_kept", "return_at_once"]

KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
PR_SET_THP_DISABLE = 41  # of Linux's prctl.h


def is_kept() -> bool:
    """Whether freed memory stays in this process; other C libraries are left as they are."""
    return platform.libc_ver()[0] != "glibc" or KEEP.keys() <= os.environ.keys()


def ensure_kept(module: str) -> None:
    """Starts this `python -m module` again, with freed memory kept, unless it is already."""
    if not is_kept():
        arguments = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, arguments, os.environ | KEEP)


def default_environment() -> dict[str, str]:
    """The environment without the settings: for a process whose memory is to be measured."""
    return {name: value for name, value in os.environ.items() if name not in KEEP}


def return_at_once() -> None:
    """From now on the resident set is the memory in use, if glibc and Linux support that.

    Every block from 64 KiB on becomes a mapping of its own, which ends when the block is freed. No
    page is a huge one, which would count 2 MiB for its first byte.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 16)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def give_back() -> None:
    """Collects garbage, and returns all free memory to the system if glibc supports that."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
