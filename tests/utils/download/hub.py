"""A server of stand-ins for the hub's files on this machine, and what it serves."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from utils.download.sources import Collection, RemoteFile

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_SHA1 = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
PINNED = RemoteFile("model.bin", size=len(CONTENT), sha256=SHA256)


@dataclass
class Hub:
    """What the server has and how it behaves; `requests` lists path and Range of each request."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    cut_after: list[int | None] = field(default_factory=list)  # bytes of the body that the nth answer sends
    failures: int = 0  # that many answers are 503 first
    ranges: bool = True
    redirect: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    endpoint: str = ""


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, span = self.path, self.headers.get("Range")
            stored = path.startswith("/storage")
            name = path.removeprefix("/storage")
            if hub.redirect and not stored and name in hub.files:
                self._head(302, {"Location": f"{hub.endpoint}/storage{name}", "X-Linked-Etag": f'"{hub.etags[name]}"'})
                return
            hub.requests.append((path, span))
            if hub.failures:
                hub.failures -= 1
                self._head(503, {"Content-Length": "0"})
            elif name not in hub.files:
                self._head(404, {"Content-Length": "0"})
            else:
                etag = "another-name" if stored else hub.etags.get(name, "")
                self._send(hub.files[name], etag, span if hub.ranges else None)

        def _send(self, body: bytes, etag: str, span: str | None) -> None:
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span else 0
            if start >= len(body) > 0:
                self._head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0", "ETag": etag})
                return
            headers = {"Content-Length": str(len(body) - start), "ETag": f'"{etag}"'}
            if span:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._head(206 if span else 200, headers)
            cut = hub.cut_after.pop(0) if hub.cut_after else None
            self.wfile.write(body[start : None if cut is None else start + cut])
            self.close_connection = True

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    return Handler


def collection(*files: RemoteFile, **fields) -> Collection:
    return Collection("standin", "owner/name", "f" * 40, "weights/standin", files, "a stand-in", **fields)


def put(hub: Hub, where: Collection, path: str, content: bytes = CONTENT, etag: str = "") -> str:
    address = where.url(path, "")
    hub.files[address], hub.etags[address] = content, etag
    return address
