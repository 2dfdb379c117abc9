"""Files and folders that are whole or not there, and their hashes.

`utils.download` runs before anything is installed, so that this imports the standard library alone.
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
def exclusive_lock(lock: Path, wait: bool = False) -> Iterator[None]:
    """Keeps other processes out of the same block while this one is in it; a killed one keeps nobody out.

    On a disk that knows no locks it keeps nobody out at all.

    Args:
        lock: a file that is there only for that.
        wait: until the other one is done.

    Raises:
        BlockingIOError: another process is in it, and `wait` is off.
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
            if not _lies_at(file.fileno(), lock):
                continue  # whoever had it has removed it meanwhile
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _lies_at(number: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` once the block has ended well, so that no reader sees half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file beside its target and rename it."""
    with atomic_file(path) as beside:
        beside.write_bytes(data)


def make_output_folder(path: Path | str, option: str = "--out") -> Path:
    """The folder that results go to, made where it is missing; called before the work, not after it.

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
    """Add a line to a text file; where it cannot be written whole, the file is left as it was.

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
        prefix: what is hashed before the content, as git does with a file's size.
        label: shows a progress bar with this name; none by default.
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
    """Turn what the writers raise of a disk into one message; none of them leaves half of `out`.

    Raises:
        UserError: the disk is full or cannot be written, with what to do about it.
    """
    try:
        yield
    except Exception as error:
        if not _is_write_error(error):
            raise
        said = f"{out}: not written, and nothing half-written is left ({first_line(error)})"
        raise UserError(f"{said}; {_write_cure(error)}") from error


def _is_write_error(error: Exception) -> bool:
    """Whether a writer raised it; safetensors is asked by name, since `utils.download` runs without it."""
    if isinstance(error, RuntimeError):  # torch.save says in words of its own that a write came short
        return bool(re.search("iostream|PytorchStreamWriter|unexpected pos", str(error)))
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


def _write_cure(error: Exception) -> str:
    """What to do about it, by the system's number for it, which libraries may only have in their words."""
    found = re.search(r"os error (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) and error.errno else int(found[1]) if found else None
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
    """Write a file beside the target and rename it, so that a reader never sees half of one.

    Raises:
        ValueError: a number in `value` is not finite, which JSON cannot hold.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(path, f"{text}\n".encode())
