"""Preemption: SIGTERM, which a cluster sends some time before it stops a job."""

from __future__ import annotations

import signal


class Stopped(Exception):
    """The run was asked to stop, and has saved its state."""


class StopRequest:
    """Records SIGTERM instead of ending the process: the run finishes its step, saves its state and exits."""

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.received = True

    def restore_default(self) -> None:
        """Let SIGTERM end the process again, once the run has ended or failed: a launcher ends other ranks with it."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
