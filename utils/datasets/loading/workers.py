"""The error when a DataLoader's worker dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from utils.runtime.errors import UserError, first_line


@contextmanager
def dead_worker_as_user_error() -> Iterator[None]:
    """Turn PyTorch's error about a killed worker, which may be raised anywhere, into a UserError.

    Raises:
        UserError: a DataLoader's worker has died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that decodes pictures died ({first_line(error)}), often for lack of memory: lower --workers "
            "or --batch-size; the same command resumes from the last state"
        ) from error
