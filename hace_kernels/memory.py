"""How much memory there is, so that what cannot fit is refused before it is allocated."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_bytes"]


def memory_bytes() -> int:
    """The bytes of memory that this process may use: the machine's, or its container's."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62  # unknown on this platform
    try:
        return min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return memory
