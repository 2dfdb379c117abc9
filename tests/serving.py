"""A server of the demo in a thread of this process, and requests to it; the standard library sends them."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from utils.demo.server import address_of, listen, server_of

SEGMENT = "/api/segment"


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: of HTTP.
        headers: their names in lower case.
        text: the body.
        seconds: that it took.
    """

    status: int
    headers: dict[str, str]
    text: str
    seconds: float

    @property
    def json(self) -> Any:
        """The body's value; not JSON is an error."""
        assert self.headers["content-type"] == "application/json", self.text
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        """The error in the body, which has all that it must have."""
        error = self.json["error"]
        assert error["status"] == self.status and error["message"] and error["cure"], error
        assert "Traceback" not in self.text and ".py" not in self.text
        return error


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serves an application; gives its address."""
    listening = listen("127.0.0.1", 0)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    try:
        yield address_of(listening)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()


def send(
    address: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    path: str = SEGMENT,
    method: str = "POST",
    timeout: float = 60.0,
) -> Reply:
    """One request on a connection of its own."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, named, answer.read().decode(), time.perf_counter() - started)
    finally:
        connection.close()


def form(fields: Sequence[tuple[str, str | bytes]]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of multipart/form-data; bytes are files."""
    border = secrets.token_hex(16)
    parts = []
    for name, value in fields:
        file = '; filename="picture"\r\nContent-Type: application/octet-stream' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode()
        head = f'--{border}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    parts.append(f"--{border}--\r\n".encode())
    return b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={border}"}


def ask(
    address: str, picture: bytes | Path, *questions: str, headers: dict[str, str] | None = None, **more: str
) -> Reply:
    """Questions about a picture."""
    data = picture.read_bytes() if isinstance(picture, Path) else picture
    body, kind = form([("image", data), *(("question", one) for one in questions), *more.items()])
    return send(address, body, {**kind, **(headers or {})})


def ask_json(address: str, value: Any, **more: str) -> Reply:
    """A value as JSON; bytes are sent as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return send(address, body, {"Content-Type": "application/json", **more})
