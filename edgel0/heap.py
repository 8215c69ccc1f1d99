"""Why does a small network wait for the kernel in every training step? Because freed memory goes back to it."""

from __future__ import annotations

import ctypes
import sys

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
ABOVE, OWN = 1 << 30, 1 << 25  # bytes; the second is the most that glibc takes


def keep() -> bool:
    """Have glibc keep what this process frees; tell whether it was done.

    By default freed memory at the end of the heap is given back, and what a training step needs is handed out anew,
    page by page: of a step of ResNet-8 with batch 32, 25 ms, 8 went there (two cores of a virtual x86 machine). Keeping
    it is for a program of one purpose: nothing shrinks until it ends. Elsewhere than on Linux nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(option(TRIM, ABOVE) and option(MMAP, OWN))
