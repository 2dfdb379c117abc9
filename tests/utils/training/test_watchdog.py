"""utils.training.watchdog: a process without progress ends (what it says: tests/test_resume.py)."""

from __future__ import annotations

import threading
import time

import pytest

from utils.training.watchdog import Watchdog


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set where a process would have ended."""
    event = threading.Event()
    monkeypatch.setattr(Watchdog, "_end", lambda watchdog: event.set())
    return event


def test_silence_ends_the_process(ended: threading.Event) -> None:
    with Watchdog(0.1).watching():
        assert ended.wait(10)


def test_progress_keeps_it_alive_and_after_the_block_nobody_looks(ended: threading.Event) -> None:
    watchdog = Watchdog(1.0)
    with watchdog.watching():
        assert watchdog.doing == "the first step"
        for step in range(8):
            time.sleep(0.2)
            watchdog.heartbeat(f"step {step}")
    assert watchdog.doing == "step 7"
    time.sleep(1.2)
    assert not ended.is_set()


def test_without_a_limit_nobody_looks(ended: threading.Event) -> None:
    threads = threading.active_count()
    with Watchdog(0).watching():
        assert threading.active_count() == threads
