"""On a CPU freed memory stays with the process: the next tensor of that size takes no new pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.training import CHECKOUT

FAULTS = """
import ctypes, resource, sys
from utils.runtime import allocator as memory
if sys.argv[1] == "keep":
    memory.keep_freed_memory()
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for turn in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    """Pages that the kernel had to give for 64 MB, the fourth time."""
    told = subprocess.run([sys.executable, "-c", FAULTS, way], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator alone can be told")
def test_a_block_that_was_freed_is_used_again() -> None:
    given_back = faults("")
    assert faults("keep") < given_back / 10
