"""Fetch one file of the hub: resumed where it was interrupted, and checked before it gets its name.

A file arrives as NAME.part, is held against its size and checksum, and gets its name only then; an
interrupted one goes on where it stopped. (huggingface_hub, which would otherwise do this, starts an
interrupted file anew, and takes the server's word for its content.)
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

from utils.download.sources import HUB, Collection, RemoteFile
from utils.runtime.errors import UserError
from utils.runtime.files import file_hash, make_output_folder
from utils.runtime.progress import byte_bar

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
TRIES = 6  # in a row that bring no byte
PAUSE = 1.0  # seconds before going on; doubled after each try that brought nothing
_DROPPED = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
_SHA256, _GIT_SHA1 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")


class _NoSuchFile(Exception):
    """The repository has no file at that path."""


class _HubRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps what the hub says of a file before it sends us to its storage."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def redirect_request(self, request, fp, code, message, headers: Message, url):
        self.said |= {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-linked-")}
        return super().redirect_request(request, fp, code, message, headers, url)


@dataclass
class _Answer:
    """A server's answer to a request for the bytes of a file from `start` on; no body where none are left."""

    body: http.client.HTTPResponse | None
    start: int
    total: int | None
    etag: str


def _ask(url: str, start: int) -> _Answer:
    """Ask for the bytes of `url` from `start` on.

    Raises:
        _NoSuchFile: there is none.
        UserError: the server will not give it.
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
        if error.code == 416:  # no bytes from there on: all are here, or what is here is none of it
            complete = error.headers.get("Content-Range") == f"bytes */{start}"
            return _Answer(None, start, start, _etag(error.headers, redirects.said)) if complete else _ask(url, 0)
        if error.code == 404:
            raise _NoSuchFile(url) from error
        if error.code in (401, 403):
            raise UserError(f"{url}: the server refuses it ({error.code} {error.reason}); fetch it by hand") from error
        raise
    etag = _etag(body.headers, redirects.said)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", body.headers.get("Content-Range", ""))
    if body.status == 206 and span:
        return _Answer(body, int(span[1]), int(span[2]), etag)
    length = body.headers.get("Content-Length", "")
    return _Answer(body, 0, int(length) if length.isdecimal() else None, etag)


def _etag(headers: Message, said: dict[str, str]) -> str:
    """The file's ETag: the hub's own where it sent us on, since storage names contents in its own way."""
    return (said.get("x-linked-etag") or headers.get("X-Linked-Etag") or headers.get("ETag", "")).strip('W/"')


def _receive(answer: _Answer, part: Path, label: str) -> None:
    """Write an answer's body into `part` from its start on."""
    with answer.body, open(part, "r+b" if part.exists() else "wb") as file:
        file.seek(answer.start)
        file.truncate()
        with byte_bar(answer.total or 0, label, answer.start) as bar:
            while chunk := answer.body.read1(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _fetch_part(url: str, part: Path, file: RemoteFile) -> str:
    """Fill `part` with the content of `url`, going on after lost connections; returns the ETag.

    Raises:
        _NoSuchFile: there is no such file.
        UserError: the server offers another size than the pinned one, or cannot be reached.
    """
    fruitless = 0
    while True:
        before = _size(part)
        try:
            answer = _ask(url, before)
            _refuse_other_file(url, answer, file)
            if answer.body is not None:
                _receive(answer, part, file.name)
            if answer.total is None or _size(part) == answer.total:
                return answer.etag
            reason = f"the connection ended at {_size(part):,} of {answer.total:,} bytes"
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
        except _DROPPED as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            why = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            reason = f"the connection failed ({why})"
        except OSError as error:
            raise UserError(f"{part}: cannot be written ({error})") from error
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == TRIES:
            raise UserError(f"{url}: {reason}; what came is kept in {part}. Run the same command again to go on")
        pause = PAUSE * 2**fruitless
        logger.warning("%s: %s; trying again in %.0f s", file.name, reason, pause)
        time.sleep(pause)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _refuse_other_file(url: str, answer: _Answer, file: RemoteFile) -> None:
    """Raise a UserError when the server announces another file than the pinned one, before it is fetched."""
    if file.size is not None and answer.total not in (None, file.size):
        raise UserError(f"{url}: not the pinned file: expected {file.size:,} bytes, got {answer.total:,}")
    if file.sha256 and _SHA256.fullmatch(answer.etag) and answer.etag != file.sha256:
        raise UserError(f"{url}: not the pinned file: expected sha256 {file.sha256}, got {answer.etag}")


def _check(path: Path, file: RemoteFile, etag: str = "") -> str:
    """Hold a file against what is pinned, else against the hub's ETag of it.

    Returns:
        What it was held against, in words.

    Raises:
        UserError: it is another one; both values stand in the message.
    """
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise UserError(f"{path}: expected {file.size:,} bytes, got {size:,}")
    label = f"checking {file.name}"
    if file.sha256 or _SHA256.fullmatch(etag):
        kind, expected, got = "sha256", file.sha256 or etag, file_hash(path, label=label)
    elif _GIT_SHA1.fullmatch(etag):  # small files: git's name of their content
        kind, expected, got = "git's sha1", etag, file_hash(path, "sha1", f"blob {size}\0".encode(), label)
    else:
        return "its size only" if file.size else "nothing: no checksum is known"
    if got != expected:
        raise UserError(f"{path}: expected {kind} {expected}, got {got}")
    return f"its pinned {kind}" if file.sha256 else f"the {kind} that the hub gives (none is pinned)"


def fetch(collection: Collection, file: RemoteFile, folder: Path, endpoint: str = HUB) -> Path | None:
    """Fetch one file into `folder`, or check the one that is there.

    Returns:
        Its path, or None for an optional file that the repository does not have.

    Raises:
        UserError: it cannot be had, or its content is not what it should be. A file that was just
            fetched is removed then; one that was there before is left.
    """
    target = folder / file.name
    if target.exists():
        try:
            logger.info("%s: there already, held against %s", target, _check(target, file))
        except UserError as error:
            raise UserError(f"{error}. Move that file away and run this again to fetch it anew") from error
        return target
    part = target.with_name(target.name + ".part")
    make_output_folder(part.parent)
    for path in file.candidates:
        try:
            etag = _fetch_part(collection.url(path, endpoint), part, file)
            break
        except _NoSuchFile:
            continue
    else:
        if file.optional:
            return None
        tried = " nor ".join(collection.url(path, endpoint) for path in file.candidates)
        raise UserError(f"{file.name}: not found at {tried}")
    try:
        held_against = _check(part, file, etag)
    except UserError as error:
        part.unlink()
        raise UserError(f"{error}. What came was removed; run this again, or fetch {target} by hand") from error
    os.replace(part, target)
    logger.info("%s: fetched, held against %s", target, held_against)
    return target
