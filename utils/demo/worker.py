"""One thread that owns the model: a bounded line of work before it, one piece at a time, and clients that may leave."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from utils.runtime.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
Checkpoint = Callable[[], None]  # raises Gone where nobody waits for the work any longer
RECENT = 0.2  # weight of the newest piece of work in the mean that tells how long the line takes


class Gone(Exception):
    """Nobody waits for the result any longer."""


class Busy(UserError):
    """The line is full.

    Attributes:
        seconds: after which a place is likely free.
    """

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class Job(Generic[T]):
    """A piece of work in the line, or being done.

    Attributes:
        result: a `Future`; `Gone` is its error where the job was cancelled.
    """

    def __init__(self, work: Callable[[Checkpoint], T]) -> None:
        self.work, self.result = work, Future[T]()
        self._gone = threading.Event()

    def leave(self) -> None:
        """Nobody waits for it any longer."""
        self._gone.set()

    def checkpoint(self) -> None:
        """Raises Gone where nobody waits for it any longer."""
        if self._gone.is_set():
            raise Gone


class Worker:
    """Does jobs one after the other in a thread of its own, in the order in which they came.

    Args:
        capacity: jobs that may wait beside the one that is being done.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running: Job | None = None
        self._closed, self._mean = False, 1.0  # seconds a job
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Checkpoint], T]) -> Job[T]:
        """Put a piece of work at the end of the line.

        Args:
            work: called in the worker's thread with a function that it calls now and then, and that ends it by
                raising `Gone` where nobody waits any longer.

        Raises:
            Busy: no place is free.
        """
        with self._changed:
            self._refuse_when_full()
            job = Job(work)
            self._line.append(job)
            self._changed.notify()
        return job

    def check_free(self) -> None:
        """Raises Busy where no place is free now, so that a request can be refused before it is read."""
        with self._changed:
            self._refuse_when_full()

    def _refuse_when_full(self) -> None:
        if self._closed or len(self._line) >= self.capacity + (self._running is None):
            seconds = max(1, math.ceil(self._mean * len(self._line)))
            raise Busy(f"{len(self._line)} others are waiting already; try again in {seconds} s", seconds)

    def cancel(self, job: Job) -> None:
        """Give a job's place to others; if it is being done it ends at its next checkpoint."""
        job.leave()
        with self._changed:
            if job in self._line:
                self._line.remove(job)
                job.result.set_exception(Gone())

    def ahead(self, job: Job) -> int:
        """How many jobs are done before this one; 0 where its turn has come."""
        with self._changed:
            return self._line.index(job) + (self._running is not None) if job in self._line else 0

    @property
    def waiting(self) -> int:
        """Jobs in the line, without the one that is being done."""
        with self._changed:
            return len(self._line)

    def close(self) -> None:
        """End the thread after the job that it is doing; those in the line are cancelled."""
        with self._changed:
            self._closed, left = True, list(self._line)
            self._changed.notify()
        for job in left:
            self.cancel(job)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            started = time.monotonic()
            try:
                job.checkpoint()
                job.result.set_result(job.work(job.checkpoint))
            except BaseException as error:  # noqa: BLE001 (raised where the result is asked for)
                job.result.set_exception(error)
                if not isinstance(error, (Gone, UserError)):
                    log.exception("a question was not answered")
            with self._changed:
                self._running = None
                self._mean += RECENT * (time.monotonic() - started - self._mean)

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._closed)
            if self._line:
                self._running = self._line.popleft()
            return self._running
