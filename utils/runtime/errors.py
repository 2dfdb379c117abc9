"""Errors that the user can fix, and the one place where they end a script."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

USER_ERROR_STATUS = 2
HUNG_STATUS = 3  # a process made no progress
STOPPED_STATUS = 143  # a shell's status for SIGTERM: 128 + 15
OTHERS_WAIT_SECONDS = 3


class UserError(Exception):
    """An error that the user can fix: the message names the file, record or value and says what to do."""


def permission_denied(path: object) -> UserError:
    """The error of a file or folder that belongs to somebody else."""
    return UserError(
        f"{path}: permission denied; this user may not read it, or a folder that it lies in: change its permissions "
        "(chmod, chown) or name another"
    )


@contextmanager
def read_errors_as_user_error(path: object, what: str = "file") -> Iterator[None]:
    """Turn the system's errors in reading a file into a UserError; `what` is what should be there.

    Raises:
        UserError: it is missing, may not be read, or cannot be.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {what}") from error
    except PermissionError as error:
        raise permission_denied(path) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


@contextmanager
def config_errors_as_user_error(what: str) -> Iterator[None]:
    """Turn any error in building from a configuration into a UserError.

    transformers has error types of its own, sam2 asserts, and a zero may divide.

    Raises:
        UserError: `what`, and the cause.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = " ".join(str(error).split())
        kind = "" if isinstance(error, (ValueError, TypeError)) and cause else f"{type(error).__name__} "
        raise UserError(f"{what}: {kind}{cause}".rstrip()) from error


def never_fail_to_print() -> None:
    r"""What a terminal's encoding lacks stands as \xNN or \uNNNN: a result is not lost for a letter in it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_result(text: str) -> None:
    """Print what a command found; where the reader has left (`| head`), the command goes on to write its files."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        to_nowhere(sys.stdout)


def to_nowhere(stream: TextIO) -> None:
    """Let a stream that cannot be written lead to /dev/null, else Python complains at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave with its status.

    A `UserError` becomes one line on stderr and exit status 2, without a traceback. Local rank 0 prints at
    once; other ranks wait, and print only if the launcher has not ended them by then, so that a message
    appears once and none is lost.
    """
    never_fail_to_print()
    try:
        status = _main_with_files_named(main)
    except UserError as error:
        local_rank = os.environ.get("LOCAL_RANK", "0")
        if local_rank != "0":
            time.sleep(OTHERS_WAIT_SECONDS)
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = USER_ERROR_STATUS
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = 130
    sys.exit(status or 0)


def _main_with_files_named(main: Callable[[], int | None]) -> int | None:
    """Raises UserError where the system refuses a file, or something else lies in its place, wherever that is."""
    try:
        return main()
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        if error.filename is None:
            raise
        if isinstance(error, PermissionError):
            raise permission_denied(error.filename) from error
        raise UserError(f"{error.filename}: {error.strerror}; move it away, or name another") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 300 characters; its type where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
