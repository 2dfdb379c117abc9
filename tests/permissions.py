"""Tests run as root in a container, which may read everything; here they may not."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION_3 = 0x20080522  # of capget(2): two words of each kind of right
READ_EVERYTHING = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class Rights(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """While it lasts, this process may neither read nor write a file or folder, be it root's."""
    libc, header, rights = ctypes.CDLL(None, use_errno=True), Header(VERSION_3, 0), (Rights * 2)()
    mode = path.stat().st_mode
    path.chmod(0)
    assert libc.capget(ctypes.byref(header), rights) == 0
    before = rights[0].effective
    rights[0].effective &= ~READ_EVERYTHING
    assert libc.capset(ctypes.byref(header), rights) == 0
    try:
        yield
    finally:
        rights[0].effective = before
        assert libc.capset(ctypes.byref(header), rights) == 0
        path.chmod(mode & 0o7777)
