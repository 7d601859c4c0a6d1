"""Keeps the memory of one training step for the next."""

from __future__ import annotations

import ctypes

# mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Tells glibc not to hand the logits back to the system after every step; elsewhere, nothing.

    By default each step asks for its buffers anew and waits while the system clears them, which
    can take longer than the loss itself: most for cross-entropy, which makes the most buffers.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
