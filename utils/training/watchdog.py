"""A watchdog that ends a hanging process."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from utils.runtime.distributed import rank, world_size
from utils.runtime.errors import HUNG_STATUS


class Watchdog:
    """Ends a process that makes no progress, which would occupy a whole job's machines.

    Args:
        seconds: without a `heartbeat` after which the process ends; 0 for never.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.heartbeat("start")

    def heartbeat(self, doing: str) -> None:
        """Report progress; `doing` names what comes next, for the message."""
        self.doing, self.last = doing, time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch in a thread until the block ends."""
        if not self.seconds:
            yield
            return
        self.heartbeat("the first step")
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self.last > self.seconds:
                self._end()

    def _end(self) -> None:
        """Print where the process hangs and exit at once; the launcher then ends the other ranks."""
        message = (
            f"process {rank()} of {world_size()} made no progress for {self.seconds / 60:g} minutes ({self.doing}); "
            "it ends here, and the stacks of its threads follow. The same command resumes from the last state; "
            "--timeout-minutes allows more\n"
        )
        os.write(sys.stderr.fileno(), f"error: {message}".encode())  # not by logging, which may be what hangs
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        os._exit(HUNG_STATUS)
