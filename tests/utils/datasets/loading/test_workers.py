"""utils.datasets.loading.workers: a dead worker is told, and SIGTERM from outside does not end one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from multiprocessing.connection import Connection

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from utils.datasets.loading.workers import dead_worker_as_user_error, ignore_sigterm_in_worker
from utils.runtime.errors import UserError


class Dying(Dataset):
    """Its worker is killed, as for lack of memory."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(UserError, match="a process that decodes pictures died .*lower --workers or --batch-size"):
        with dead_worker_as_user_error():
            list(DataLoader(Dying(), num_workers=1))


def test_an_error_of_another_kind_passes_through() -> None:
    error = RuntimeError("the shapes do not match")
    with pytest.raises(RuntimeError) as caught, dead_worker_as_user_error():
        raise error
    assert caught.value is error


def work(pipe: Connection) -> None:
    """A worker: it answers until it is ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ignore_sigterm_in_worker(0)
    while True:
        pipe.send(pipe.recv())


def test_sigterm_from_outside_does_not_end_a_worker_and_its_parents_does() -> None:
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=work, args=(there,), daemon=True)
    worker.start()
    here.send("ready?")
    assert here.poll(30) and here.recv() == "ready?"
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # as a cluster does, from another process
    time.sleep(0.3)
    here.send("still there?")
    assert here.poll(30) and here.recv() == "still there?"
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(30)
    ended = worker.exitcode
    worker.kill()  # or one that heeds nothing would be waited for at the end of the tests
    assert ended == 0
