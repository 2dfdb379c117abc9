"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes

# From glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the allocator keep freed pages for later tensors; returns whether the C library supports it.

    glibc returns every freed block of over 32 MB to the kernel, which clears the pages of the next one: with the
    golden configuration half of a forward pass on two cores (0.74 s a sample; 0.40 s with pages kept). For
    CPUs only: PyTorch caches GPU memory itself.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    return all(mallopt(*one) for one in ((MMAP_MAX, 0), (TRIM_THRESHOLD, LARGEST_INT), (TOP_PAD, 1 << 26)))
