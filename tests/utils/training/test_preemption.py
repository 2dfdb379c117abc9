"""utils.training.preemption: SIGTERM is noted, and ends the process only once the run is over."""

from __future__ import annotations

import os
import signal

from utils.training.preemption import StopRequest


def test_sigterm_is_noted_until_the_run_has_ended() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop = StopRequest()
        assert not stop.received
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received
        stop.restore_default()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
