"""utils.runtime.ports: ports that nothing listens on."""

from __future__ import annotations

import socket

from utils.runtime.ports import free_port


def test_a_free_port_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("", free_port()))
        assert free_port() != taken.getsockname()[1]
