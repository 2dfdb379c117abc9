"""TCP ports. Standard library only, so that a launcher need not import torch."""

from __future__ import annotations

import random
import socket

# Below those that systems give to outgoing connections, one of which could take the port before it is used.
FIRST, LAST = 20_000, 32_000


def free_port() -> int:
    """A port that is free now; drawn at random, so that two processes that ask hardly get the same."""
    draw = random.SystemRandom()  # leaves the seeded generators alone
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("", draw.randint(FIRST, LAST)))
                return probe.getsockname()[1]
            except OSError:
                continue
