"""Serving: the socket, the temporary folder, and the end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from utils.runtime.errors import STOPPED_STATUS, UserError

log = logging.getLogger(__name__)

GRACE_SECONDS = 5  # for answers that are being sent when the server ends


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one.

    Raises:
        UserError: the port is taken, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        cure = (
            "name another --port, or 0 for a free one" if host in ("127.0.0.1", "0.0.0.0") else "check --host, --port"
        )
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error}); {cure}") from error
    return listening


def address_of(listening: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: FastAPI) -> uvicorn.Server:
    """A server that logs errors alone: who asks what is nobody's business."""
    settings: dict[str, Any] = {"log_config": None, "log_level": "warning", "access_log": False, "server_header": False}
    return uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=GRACE_SECONDS, **settings))


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, after which the caller's cleaning up is done."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED_STATUS))  # uvicorn raises the signal again at its end
    server_of(app).run(sockets=[listening])
