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
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from utils.runtime.errors import UserError, first_line
from utils.runtime.paths import INSIDE, put_back_entries, remove, replace_entries, through_links, working_place
from utils.runtime.progress import byte_bar
from utils.runtime.text import lone_surrogate, shown_name

CHECKOUT = Path(__file__).resolve().parents[2]
# What renaming a folder fails with that can be written into all the same: a mount point, one of an image's lower
# layers, one in a folder of somebody else.
FIXED_FOLDER = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that replaces `target` when the block ends without error.

    After an error `target` is as it was and nothing half-written remains. A symbolic link stays one: what it leads
    to is replaced. A folder that cannot be renamed, such as a mount point, is filled. Of two processes the second
    waits for the first. Files in it get the mode that the umask says, whatever their writer gave them.
    """
    target = through_links(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside, old = working_place(target, "writing"), working_place(target, "old")
    with exclusive_lock(working_place(target, "lock"), wait=True):
        in_place = beside.parent == target
        if in_place:
            put_back_entries(target)
        elif old.is_dir() and not old.is_symlink() and not os.path.lexists(target):
            old.rename(target)  # a process was killed before the new one took its place
        remove(beside)
        beside.mkdir()
        mode = stat.S_IMODE(beside.stat().st_mode)
        try:
            yield beside
            set_modes(beside.rglob("*"), mode & 0o666)
            if in_place:
                replace_entries(target, beside)
            else:
                _take_place(target, beside, old)
        finally:
            remove(beside)


def set_modes(paths: Iterable[Path], mode: int) -> None:
    """Give files a mode; safetensors makes its own readable by their owner alone."""
    for path in paths:
        found = path.lstat()
        # one with several names has been written elsewhere
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and stat.S_IMODE(found.st_mode) != mode:
            path.chmod(mode)


def _take_place(target: Path, beside: Path, old: Path) -> None:
    """Rename `beside` to `target`, what was there being `old` meanwhile; where that will not be renamed, fill it."""
    remove(old)
    if target.is_dir():
        beside.chmod(stat.S_IMODE(target.stat().st_mode))  # who shares a folder made it so
    try:
        if os.path.lexists(target):
            target.rename(old)
    except OSError as error:
        if error.errno not in FIXED_FOLDER or not target.is_dir():
            raise
        inside = target / f"{INSIDE}writing"
        try:
            put_back_entries(target)
            remove(inside)
            shutil.move(beside, inside)  # a copy where it is another file system
            replace_entries(target, inside)
        finally:
            remove(inside)
        return
    try:
        beside.rename(target)
    except BaseException:
        if os.path.lexists(old):
            old.rename(target)
        raise
    remove(old)


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
    """A file to write that replaces `path` when the block ends without error, so that no reader sees half of it.

    Where `path` is a symbolic link, what it points to is replaced. Of two processes the second waits for the first.
    It gets the mode that the umask says, whatever its writer gave it.
    """
    path = through_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = working_place(path, "writing")
    with exclusive_lock(working_place(path, "lock"), wait=True):
        try:
            beside.unlink(missing_ok=True)
            beside.touch()
            mode = stat.S_IMODE(beside.stat().st_mode)
            yield beside
            if stat.S_IMODE(beside.stat().st_mode) != mode:
                beside.chmod(mode)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def link_or_copy(file: Path, target: Path) -> None:
    """Let `target` be the same file by a hard link; a copy where there are none or it is another file system."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)


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
        through_links(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be made a folder ({error.strerror}); name another") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: cannot be written to; name another folder")
    return path


def check_utf8_path(path: Path | str, option: str = "") -> None:
    """For what libraries read and write that take no other path (safetensors, TensorBoard).

    Raises:
        UserError: bytes of the path are no UTF-8.
    """
    if broken := lone_surrogate(str(path)):
        named = f"{option} {shown_name(path)}".strip()
        raise UserError(f"{named}: the path holds {broken}; rename it, for weights are read and written in UTF-8 alone")


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file; where that fails, the file is left as it was.

    A last line that was not ended, by a crash or by an editor, is ended first.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    data = f"{line}\n".encode("utf-8", "backslashreplace")  # half a character stands as its number
    with open(path, "ab+", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        if not _ends_with_newline(file):
            data = b"\n" + data
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            os.truncate(path, before)
            raise


def end_last_line(path: Path) -> None:
    """End a text file's last line where it has not been ended, so that what is added does not go on in it."""
    if path.exists():
        with open(path, "ab+", buffering=0) as file:
            if not _ends_with_newline(file):
                file.write(b"\n")


def _ends_with_newline(file: IO[bytes]) -> bool:
    """Whether an open file is empty or its last line has been ended."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


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
    if number == errno.ENAMETOOLONG:
        return "a name is too long for that file system: give a shorter one"
    if number == errno.EFBIG:
        return "a file may not be so large there: raise the limit (ulimit -f) or name another place"
    if number is None:
        return "is the disk full?"
    return "name another place"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically.

    Bytes of paths that are no UTF-8 are written as JSON's escapes, from which they are read back as they were.

    Raises:
        ValueError: a number in `value` is not finite, which JSON cannot hold.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(path, f"{text}\n".encode("utf-8", "backslashreplace"))
