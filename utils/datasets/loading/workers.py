"""DataLoader workers: their end by a signal, and what is said when one dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from utils.runtime.errors import UserError, first_line


def ignore_sigterm_in_worker(worker: int) -> None:
    """Start of a process that decodes pictures: SIGTERM reaches it too, but the step that it feeds is to end.

    The run that it belongs to still ends it so.
    """

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def dead_worker_as_user_error() -> Iterator[None]:
    """Turn PyTorch's word for a loading process that was killed, which may come anywhere, into a message.

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
            "or --batch-size; the same command goes on from the last state"
        ) from error
