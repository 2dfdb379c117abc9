"""utils.runtime.helpers: SIGTERM from outside does not end a helper process, and its parent's end does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

from tests.training import CHECKOUT
from utils.runtime.helpers import helper_pool, ignore_sigterm_in_worker


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


def test_a_pool_ends_with_a_parent_that_is_killed() -> None:
    """Else its processes would keep the memory of a run that is gone."""
    code = """
import os
from utils.runtime.helpers import helper_pool
pool = helper_pool(1, int)
print(next(iter(pool._processes)), flush=True)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, timeout=60)
    helper, deadline = int(ended.stdout), time.monotonic() + 30
    while os.path.exists(f"/proc/{helper}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{helper}")


def test_ctrl_c_is_the_parent_s_to_answer() -> None:
    pool = helper_pool(1, int)
    (process,) = pool._processes.values()
    os.kill(process.pid, signal.SIGINT)
    assert pool.submit(abs, -1).result(timeout=60) == 1
    pool.shutdown()
