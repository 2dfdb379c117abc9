"""How the C library hands memory out."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next tensors; says whether the C library can.

    glibc gives every freed block of over 32 MB back and asks for the next one anew, whose pages the kernel
    then clears one by one: at golden's dimensions half of a forward pass on two cores (0.74 s a sample, 0.40
    without). It is for CPUs alone: PyTorch keeps a GPU's memory itself.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    return all(mallopt(*one) for one in ((MMAP_MAX, 0), (TRIM_THRESHOLD, LARGEST_INT), (TOP_PAD, 1 << 26)))
