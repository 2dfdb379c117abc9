"""Fetch one file of the hub: resumed where it was interrupted, and checked before it gets its name.

A file is fetched as NAME.part, checked against its size and checksum, and only then renamed; an interrupted one
is resumed. (huggingface_hub restarts an interrupted file, and does not check its content.)
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO

from utils.download.sources import HUB, Collection, RemoteFile
from utils.runtime.errors import UserError
from utils.runtime.files import file_hash, make_output_folder
from utils.runtime.progress import byte_bar

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
MAX_ATTEMPTS = 6  # in a row that bring no byte
RETRY_PAUSE = 1.0  # seconds before the next attempt; doubled after each that brought no byte
_CONNECTION_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
_SHA256, _GIT_SHA1 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")


class _NotFound(Exception):
    """The repository has no file at that path."""


class _HubRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the `X-Linked-…` headers, which the hub sends before it redirects to its storage."""

    def __init__(self) -> None:
        self.linked: dict[str, str] = {}

    def redirect_request(
        self, request: urllib.request.Request, body: IO[bytes], code: int, reason: str, headers: Message, url: str
    ) -> urllib.request.Request | None:
        self.linked |= {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-linked-")}
        return super().redirect_request(request, body, code, reason, headers, url)


@dataclass
class _Response:
    """A server's response to a request for a file's bytes from `start` on; `body` is None where none are left."""

    body: http.client.HTTPResponse | None
    start: int
    total: int | None
    etag: str


def _request(url: str, start: int) -> _Response:
    """Request the bytes of `url` from `start` on.

    Raises:
        _NotFound: the server has no such file.
        UserError: the server refuses it.
        URLError, HTTPException, OSError: the connection failed.
    """
    redirects = _HubRedirects()
    opener = urllib.request.build_opener(redirects)
    headers = {"User-Agent": "pixdlm-download", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        body = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # no bytes from there on: the file is complete here, or what is here is longer than it
            complete = error.headers.get("Content-Range") == f"bytes */{start}"
            return (
                _Response(None, start, start, _etag(error.headers, redirects.linked)) if complete else _request(url, 0)
            )
        if error.code == 404:
            raise _NotFound(url) from error
        if error.code in (401, 403):
            raise UserError(f"{url}: the server refuses it ({error.code} {error.reason}); fetch it by hand") from error
        raise
    etag = _etag(body.headers, redirects.linked)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", body.headers.get("Content-Range", ""))
    if body.status == 206 and span:
        return _Response(body, int(span[1]), int(span[2]), etag)
    length = body.headers.get("Content-Length", "")
    return _Response(body, 0, int(length) if length.isdecimal() else None, etag)


def _etag(headers: Message, linked: dict[str, str]) -> str:
    """The file's ETag: the hub's own after a redirect, since its storage has ETags of another kind."""
    return (linked.get("x-linked-etag") or headers.get("X-Linked-Etag") or headers.get("ETag", "")).strip('W/"')


def _write_body(response: _Response, part: Path, label: str) -> None:
    """Write a response's body into `part` from its start on."""
    with response.body, open(part, "r+b" if part.exists() else "wb") as file:
        file.seek(response.start)
        file.truncate()
        with byte_bar(response.total or 0, label, response.start) as bar:
            while chunk := response.body.read1(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _fetch_part(url: str, part: Path, file: RemoteFile) -> str:
    """Fill `part` with the content of `url`, resuming after lost connections; returns the ETag.

    Raises:
        _NotFound: there is no such file.
        UserError: the server offers another size than the pinned one, or cannot be reached.
    """
    failed_attempts = 0
    while True:
        before = _size(part)
        try:
            response = _request(url, before)
            _check_announced(url, response, file)
            if response.body is not None:
                _write_body(response, part, file.name)
            if response.total is None or _size(part) == response.total:
                return response.etag
            reason = f"the connection ended at {_size(part):,} of {response.total:,} bytes"
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
        except _CONNECTION_ERRORS as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            detail = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            reason = f"the connection failed ({detail})"
        except OSError as error:
            raise UserError(
                f"{part}: cannot be written ({error}); make room or name another folder with --out"
            ) from error
        failed_attempts = 0 if _size(part) > before else failed_attempts + 1
        if failed_attempts == MAX_ATTEMPTS:
            raise UserError(f"{url}: {reason}; what arrived is kept in {part}. Run the same command again to resume")
        pause = RETRY_PAUSE * 2**failed_attempts
        logger.warning("%s: %s; trying again in %.0f s", file.name, reason, pause)
        time.sleep(pause)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_announced(url: str, response: _Response, file: RemoteFile) -> None:
    """Check the size and hash that the server announces before the file is fetched.

    Raises:
        UserError: they are not the pinned ones.
    """
    if file.size is not None and response.total not in (None, file.size):
        raise UserError(f"{url}: not the pinned file: expected {file.size:,} bytes, got {response.total:,}")
    if file.sha256 and _SHA256.fullmatch(response.etag) and response.etag != file.sha256:
        raise UserError(f"{url}: not the pinned file: expected sha256 {file.sha256}, got {response.etag}")


def _check(path: Path, file: RemoteFile, etag: str = "") -> str:
    """Compare a file with its pinned size and hash, else with the hash that the hub gives as its ETag.

    Returns:
        What it was compared with, in words.

    Raises:
        UserError: they differ; the message has both values.
    """
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise UserError(f"{path}: expected {file.size:,} bytes, got {size:,}")
    label = f"checking {file.name}"
    if file.sha256 or _SHA256.fullmatch(etag):
        kind, expected, got = "sha256", file.sha256 or etag, file_hash(path, label=label)
    elif _GIT_SHA1.fullmatch(etag):  # small files: git's hash of their content
        kind, expected, got = "git's sha1", etag, file_hash(path, "sha1", f"blob {size}\0".encode(), label)
    else:
        return "its size only" if file.size else "nothing, since no checksum is known"
    if got != expected:
        raise UserError(f"{path}: expected {kind} {expected}, got {got}")
    return f"its pinned {kind}" if file.sha256 else f"the {kind} that the hub gives (none is pinned)"


def fetch(collection: Collection, file: RemoteFile, folder: Path, endpoint: str = HUB) -> Path | None:
    """Fetch one file into `folder`, or check the one that is there.

    Returns:
        Its path, or None for an optional file that the repository does not have.

    Raises:
        UserError: it cannot be fetched, or its content differs. A file that was just fetched is then removed;
            one that was there before is kept.
    """
    target = folder / file.name
    if target.exists():
        try:
            logger.info("%s: there already, compared with %s", target, _check(target, file))
        except UserError as error:
            raise UserError(f"{error}. Move that file away and run this again to fetch it") from error
        return target
    part = target.with_name(target.name + ".part")
    make_output_folder(part.parent)
    for path in file.candidates:
        try:
            etag = _fetch_part(collection.url(path, endpoint), part, file)
            break
        except _NotFound:
            continue
    else:
        if file.optional:
            return None
        tried = " nor ".join(collection.url(path, endpoint) for path in file.candidates)
        raise UserError(f"{file.name}: not found at {tried}; is --endpoint a mirror that lacks it?")
    try:
        compared_with = _check(part, file, etag)
    except UserError as error:
        part.unlink()
        raise UserError(f"{error}. What arrived was removed; run this again, or fetch {target} by hand") from error
    os.replace(part, target)
    logger.info("%s: fetched, compared with %s", target, compared_with)
    return target
