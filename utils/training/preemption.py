"""A request to stop: SIGTERM, which a cluster sends before it takes a machine away."""

from __future__ import annotations

import signal


class Stopped(Exception):
    """The run has been asked to stop, and has written its state."""


class StopRequest:
    """Whether SIGTERM came, which a cluster sends some time before it takes a machine away.

    The run goes on to the end of its step, writes its state and leaves.
    """

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.received = True

    def restore_default(self) -> None:
        """The run has ended or failed: SIGTERM ends the process again, as a launcher that ends the others means it."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
