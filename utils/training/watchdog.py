"""What looks after a long run: a request to stop, and a process that hangs."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from model.checkpoints.tensors import first_line
from utils.runtime.distributed import rank, world
from utils.runtime.errors import HUNG_STATUS, UserError


class Stopped(Exception):
    """The run has been asked to stop, and has written its state."""


class StopRequest:
    """Whether SIGTERM came, which a cluster sends some time before it takes a machine away.

    The run goes on to the end of its step, writes its state and leaves.
    """

    def __init__(self) -> None:
        self.made = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.made = True

    def no_longer_heeded(self) -> None:
        """The run has ended or failed: SIGTERM ends the process again, as a launcher that ends the others means it."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def outlive_sigterm(worker: int) -> None:
    """Start of a process that decodes pictures: SIGTERM reaches it too, but the step that it feeds is to end.

    The run that it belongs to still ends it so.
    """

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait, daemon=True).start()


class Watchdog:
    """Ends a process that makes no progress: what hangs would hold a whole job's machines for nothing.

    Args:
        seconds: without a `beat` after which the process ends.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.beat("start")

    def beat(self, doing: str) -> None:
        """There is progress; `doing` is what comes next, for the message."""
        self.doing, self.last = doing, time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the time until the block ends; with no limit there is nothing to look at."""
        if not self.seconds:
            yield
            return
        self.beat("the first step")
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
        """Say where the process hangs and leave at once; the launcher then ends the others."""
        told = (
            f"process {rank()} of {world()} made no progress for {self.seconds / 60:g} minutes ({self.doing}); it ends "
            "here, where its threads are stands below. The same command goes on from the last state; "
            "--timeout-minutes allows more\n"
        )
        os.write(sys.stderr.fileno(), f"error: {told}".encode())  # not by logging, which may be what hangs
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        os._exit(HUNG_STATUS)


@contextmanager
def told_of_dead_workers() -> Iterator[None]:
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
