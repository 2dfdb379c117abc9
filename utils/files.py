"""Files and folders that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_beside(target: Path) -> Iterator[Path]:
    """A folder to write into that takes the place of `target` once the block has ended well.

    After an error `target` is as it was and nothing half-written remains.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.writing")
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        try:
            beside.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def file_beside(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` once the block has ended well, so that no reader sees half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a file beside its target and rename it."""
    with file_beside(path) as beside:
        beside.write_bytes(data)


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            total.update(chunk)
    return total.hexdigest()
