"""TCP ports. Standard library only, so that a launcher need not import torch."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A TCP port that nothing listens on, so that runs on one machine do not collide."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]
