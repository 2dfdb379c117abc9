"""Helper processes: what they do on SIGTERM, pools that end with their parent, and the error when one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from utils.runtime.errors import UserError


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
    """Worker init function of inference: as above, and where cores are few, the model's process goes first."""
    ignore_sigterm_in_worker(worker)
    os.nice(10)


def helper_pool(workers: int, start: Callable[..., None], *given: Any) -> ProcessPoolExecutor:
    """Processes that finish results beside the model; forked now, so before there are threads of a forward pass.

    Args:
        workers: how many.
        start: called in each with `given`, before anything is submitted.

    Raises:
        UserError: one died at its start.
    """
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, _start, (os.getpid(), start, given))
    with dead_helper_as_user_error():
        pool.submit(int).result()
    return pool


def _start(parent: int, start: Callable[..., None], given: tuple) -> None:
    """Begin a process of a pool; it ends when its parent was killed."""
    start_helper(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its helpers, without tracebacks

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    start(*given)


@contextmanager
def dead_helper_as_user_error() -> Iterator[None]:
    """Turn the error about a process of a pool that was killed into a UserError.

    Raises:
        UserError: one has died.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "a process that finishes masks died, often for lack of memory: lower --workers or --batch-size; the same "
            "command goes on from the answers that are written"
        ) from error
