"""Paths as they are met: links, mount points, names that are too long, and what this user may not read.

`utils.download` runs before anything is installed, so that this imports the standard library alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

from utils.runtime.errors import UserError, permission_denied

NAME_BYTES = 255  # that a name may have where the file system does not say
READABLE_NAME = 64  # bytes of a temporary name that still tells whose it is
INSIDE = ".pixdlm."  # begins the names of what we keep in a folder while it is filled
OF_THE_FILE_SYSTEM = "lost+found"  # lies at the top of one, and is nobody's content
NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


# -- what is there, and may be read ------------------------------------------------------------
def is_file(path: Path | str) -> bool:
    """Whether there is a file.

    Raises:
        UserError: it is there and this user may not read it, or may not look into a folder that it lies in.
    """
    found = _status(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        return False
    try:
        with open(path, "rb"):
            return True
    except PermissionError as error:
        raise permission_denied(path) from error


def is_folder(path: Path | str) -> bool:
    """Whether there is a folder.

    Raises:
        UserError: this user may not look into a folder that it lies in.
    """
    found = _status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def exists(path: Path | str) -> bool:
    """Whether anything is there.

    Raises:
        UserError: this user may not look into a folder that it lies in.
    """
    return _status(path) is not None


def _status(path: Path | str) -> os.stat_result | None:
    """What the system says of a path, links followed; None where nothing is there.

    Raises:
        UserError: this user may not look into a folder that it lies in.
    """
    try:
        return os.stat(path)
    except PermissionError as error:
        raise permission_denied(path) from error
    except OSError as error:
        if error.errno in NOTHING_THERE:
            return None
        raise


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where there is no folder.

    Unlike `glob` it takes every name for what it is, and tells of a folder that may not be read.

    Raises:
        UserError: this user may not list it.
    """
    if not is_folder(folder):
        return []
    try:
        return sorted(folder.iterdir())
    except PermissionError as error:
        raise permission_denied(folder) from error


def has_content(folder: Path) -> bool:
    """Whether something lies at `folder`, be it a file; an empty folder, or file system, has none.

    Raises:
        UserError: this user may not look.
    """
    if not is_folder(folder):
        return exists(folder)
    return any(entry.name != OF_THE_FILE_SYSTEM and not entry.name.startswith(INSIDE) for entry in entries(folder))


# -- names -------------------------------------------------------------------------------------
def fitting_name(folder: Path, stem: str, ending: str) -> str:
    """`stem` and `ending` as a file name; a stem that is too long for the file system is cut, its hash after it.

    Args:
        folder: that the file will lie in.
        stem: may be cut, between letters.
        ending: stays whole.
    """
    raw, room = os.fsencode(stem), name_limit(folder) - len(os.fsencode(ending))
    if len(raw) <= room:
        return stem + ending
    mark = f"-{hashlib.sha256(raw).hexdigest()[:8]}"
    letters = list(stem)
    sizes = [len(os.fsencode(letter)) for letter in letters]
    while letters and sum(sizes) > room - len(mark):
        letters.pop(), sizes.pop()
    return "".join(letters) + mark + ending


def name_limit(folder: Path) -> int:
    """The most bytes that a name in a folder may have."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):  # not there yet, or the system does not say
        return NAME_BYTES


def through_links(path: Path) -> Path:
    """What a path leads to where it is a symbolic link or has no name of its own, such as `.`; else the path.

    Raises:
        UserError: it is a link that leads to itself.
    """
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: a symbolic link that leads to itself; remove it or name another") from error
    return Path(os.path.realpath(path)) if path.is_symlink() or path.name in ("", "..") else path


def working_place(target: Path, mark: str) -> Path:
    """A hidden name for what belongs to the making of `target`: beside it, or in a folder that can only be filled.

    It is no longer than the target's own name or READABLE_NAME, so that it fits wherever that does.
    """
    if can_only_be_filled(target):
        return target / f"{INSIDE}{mark}"
    own, name = os.fsencode(target.name), f".{target.name}.{mark}"
    if len(os.fsencode(name)) > max(len(own), READABLE_NAME):
        name = f".{hashlib.sha256(own).hexdigest()[:16]}.{mark}"
    return target.with_name(name)


# -- folders that no other can take the place of -----------------------------------------------
def can_only_be_filled(folder: Path) -> bool:
    """Whether a folder is there that cannot be renamed: a mount point, one in a folder that takes nothing new, or
    the one that this process is in."""
    if not folder.is_dir():
        return False
    here = Path(os.path.realpath(folder))
    fixed = os.path.ismount(here) or not os.access(here.parent, os.W_OK | os.X_OK)
    return fixed or here == Path.cwd() or here in Path.cwd().parents


def replace_entries(folder: Path, new: Path) -> None:
    """What lies in `new`, a folder inside `folder`, takes the place of everything else in that.

    After an error everything is as it was.
    """
    old, replaced = folder / f"{INSIDE}old", folder / f"{INSIDE}replaced"
    remove(old)
    old.mkdir()
    kept = [entry for entry in folder.iterdir() if not entry.name.startswith(INSIDE)]
    moves = [(entry, old / entry.name) for entry in kept if entry.name != OF_THE_FILE_SYSTEM]
    moves += [(entry, folder / entry.name) for entry in new.iterdir()]
    done: list[tuple[Path, Path]] = []
    try:
        for move in moves:
            shutil.move(*move)  # copies what cannot be renamed
            done.append(move)
    except BaseException:
        for before, now in reversed(done):
            shutil.move(now, before)
        old.rmdir()
        raise
    remove(replaced)
    old.rename(replaced)  # from here on nothing is put back
    remove(replaced)


def put_back_entries(folder: Path) -> None:
    """Undo a `replace_entries` whose process was killed in it: what it had put aside comes back."""
    old = folder / f"{INSIDE}old"
    for entry in entries(old):
        remove(folder / entry.name)
        shutil.move(entry, folder / entry.name)
    remove(old)
    remove(folder / f"{INSIDE}replaced")


def remove(path: Path) -> None:
    """Take a file, link or folder away, as far as this user may."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
