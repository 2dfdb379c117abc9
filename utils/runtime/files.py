"""Atomic files and folders, locks and hashes.

Imports the standard library only, since `utils.download` runs before anything is installed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from utils.runtime.errors import UserError, first_line
from utils.runtime.progress import byte_bar

CHECKOUT = Path(__file__).resolve().parents[2]


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that replaces `target` when the block ends without error.

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
def exclusive_lock(lock: Path, wait: bool = False) -> Iterator[None]:
    """Let one process at a time run the block. The lock of a killed process is released.

    On a disk without file locks this does nothing.

    Args:
        lock: a file that exists only for the lock.
        wait: for the other process to leave the block.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is off.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(lock, "w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise BlockingIOError(error.errno, f"another process has {lock}") from error
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                    raise
            if not _is_file_at(file.fileno(), lock):
                continue  # the previous holder has removed the file meanwhile
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_file_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A file to write that replaces `path` when the block ends without error, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_file(path) as beside:
        beside.write_bytes(data)


def make_output_folder(path: Path | str, option: str = "--out") -> Path:
    """The folder for results, created where it is missing; call it before the work, not after.

    Raises:
        UserError: it cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be made a folder ({error.strerror}); name another") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{option} {path}: cannot be written to; name another folder")
    return path


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file; where that fails, the file is left as it was.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    data = f"{line}\n".encode()
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            os.truncate(path, before)
            raise


def file_hash(path: Path, algorithm: str = "sha256", prefix: bytes = b"", label: str | None = None) -> str:
    """The hash of `prefix` and a file's content, in hexadecimal.

    Args:
        algorithm: one that `hashlib` knows.
        prefix: hashed before the content, as git does with a file's size.
        label: of a progress bar; None shows none.
    """
    digest = hashlib.new(algorithm, prefix)
    with open(path, "rb") as file, byte_bar(path.stat().st_size, label) if label else nullcontext() as bar:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            if bar is not None:
                bar.update(len(chunk))
    return digest.hexdigest()


@contextmanager
def write_errors_as_user_error(out: Path) -> Iterator[None]:
    """Turn writing errors into one message. `out` must be written atomically in the block.

    Raises:
        UserError: the disk is full or cannot be written, with the cure.
    """
    try:
        yield
    except Exception as error:
        if not _is_write_error(error):
            raise
        message = f"{out}: not written, and nothing half-written is left ({first_line(error)})"
        raise UserError(f"{message}; {_write_cure(error)}") from error


def _is_write_error(error: Exception) -> bool:
    """Whether writing raised it; safetensors' error is recognised by name, as `utils.download` runs without it."""
    if isinstance(error, RuntimeError):  # torch.save's for an incomplete write
        return bool(re.search("iostream|PytorchStreamWriter|unexpected pos|open file failed", str(error)))
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


def _write_cure(error: Exception) -> str:
    """The cure, by errno, which some libraries have only in their message."""
    found = re.search(r"os error (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) and error.errno else int(found[1]) if found else None
    if number is None:  # torch.save has the system's words alone
        number = next((code for code in errno.errorcode if os.strerror(code) in str(error)), None)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "this user may not write there: change the permissions or name another place"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room or name another place"
    if number == errno.EFBIG:
        return "a file may not be so large there: raise the limit (ulimit -f) or name another place"
    if number is None:
        return "is the disk full?"
    return "name another place"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically.

    Raises:
        ValueError: a number in `value` is not finite, which JSON cannot hold.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(path, f"{text}\n".encode())
