"""utils.demo.worker: order, bounds, and clients that leave."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from utils.demo.worker import Busy, Checkpoint, Gone, Worker
from utils.runtime.errors import UserError


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(2)
    yield made
    made.close()


def hold(worker: Worker) -> threading.Event:
    """Keeps the worker busy until the event is set."""
    free, begun = threading.Event(), threading.Event()
    worker.submit(lambda checkpoint: (begun.set(), free.wait(10)))
    assert begun.wait(5)
    return free


def test_jobs_are_done_one_after_the_other_in_one_thread(worker: Worker) -> None:
    free, seen = hold(worker), []
    jobs = [worker.submit(lambda checkpoint, n=n: seen.append((n, threading.get_ident()))) for n in range(2)]
    assert [worker.ahead(job) for job in jobs] == [1, 2] and worker.waiting == 2
    free.set()
    for job in jobs:
        job.result.result(5)
    assert [number for number, _ in seen] == [0, 1] and len({thread for _, thread in seen}) == 1
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_a_full_line_refuses_and_a_place_that_is_given_up_is_free(worker: Worker) -> None:
    free = hold(worker)
    first, second = (worker.submit(lambda checkpoint: "done") for _ in range(2))
    for refused in (lambda: worker.submit(lambda checkpoint: None), worker.check_free):
        with pytest.raises(Busy, match="2 others are waiting") as busy:
            refused()
        assert busy.value.seconds >= 1
    worker.cancel(first)
    with pytest.raises(Gone):
        first.result.result(1)
    third = worker.submit(lambda checkpoint: "third")
    free.set()
    assert (second.result.result(5), third.result.result(5)) == ("done", "third")


def test_a_running_job_ends_at_its_checkpoint(worker: Worker) -> None:
    begun = threading.Event()

    def endless(checkpoint: Checkpoint) -> None:
        while True:
            begun.set()
            checkpoint()

    job = worker.submit(endless)
    assert begun.wait(5)
    worker.cancel(job)
    with pytest.raises(Gone):
        job.result.result(5)


@pytest.mark.parametrize("error", [UserError("a question"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_errors_are_the_results_and_no_end(worker: Worker, error: BaseException) -> None:
    def fail(checkpoint: Checkpoint) -> None:
        raise error

    with pytest.raises(type(error)):
        worker.submit(fail).result.result(5)
    assert worker.submit(lambda checkpoint: 1).result.result(5) == 1


def test_who_waits_is_told_of_the_end() -> None:
    worker = Worker(3)
    free = hold(worker)
    job = worker.submit(lambda checkpoint: None)
    free.set()
    worker.close()
    assert job.result.done()
    with pytest.raises(Busy):
        worker.submit(lambda checkpoint: None)
