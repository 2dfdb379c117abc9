"""DataLoader workers: SIGTERM, and the error when one dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from utils.runtime.errors import UserError, first_line


def ignore_sigterm_in_worker(worker: int) -> None:
    """Worker init function: ignore SIGTERM, which a cluster sends to every process, until the step is done.

    SIGTERM from the parent process still ends the worker.
    """

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait, daemon=True).start()


def start_helper(worker: int) -> None:
    """Worker init function of an evaluation: as above, and where cores are few, the model's process goes first."""
    ignore_sigterm_in_worker(worker)
    os.nice(10)


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
