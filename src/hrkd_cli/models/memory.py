"""The C library's memory manager, told to keep what a training step gives back."""

from __future__ import annotations

import ctypes
import sys

# Options of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, for the next step; return whether the C library can.

    By default glibc maps each large tensor anew and gives it back when it is freed: the kernel then clears the same
    pages again at every step, a quarter of a step's time (docs/performance.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
