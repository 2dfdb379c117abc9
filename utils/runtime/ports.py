"""TCP ports. The standard library alone, so that a launcher need not wait for torch."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A TCP port that nothing listens on, so that two runs on a machine do not meet."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]
