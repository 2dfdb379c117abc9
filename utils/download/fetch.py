"""Fetch the published weights and data at their pinned revisions, checked.

    python -m utils.download                                everything (32 GB)
    python -m utils.download --what clip sam2 llava drseg    what training starts from
    python -m utils.download --what drseg                    the data set alone

A file arrives as NAME.part, is held against its size and checksum, and gets its name only then; an
interrupted one goes on where it stopped. (huggingface_hub, which would otherwise do this, starts an
interrupted file anew, and takes the server's word for its content.)
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import logging
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from utils.download.sources import COLLECTIONS, HUB, Collection, RemoteFile
from utils.runtime.errors import UserError
from utils.runtime.files import CHECKOUT, make_output_folder
from utils.runtime.progress import byte_bar

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
TRIES = 6  # in a row that bring no byte
PAUSE = 1.0  # seconds before going on; doubled after each try that brought nothing
GROUPS = {
    "all": tuple(COLLECTIONS),
    "weights": tuple(name for name, each in COLLECTIONS.items() if not each.is_dataset),
    "data": tuple(name for name, each in COLLECTIONS.items() if each.is_dataset),
}
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


def digest(path: Path, label: str, algorithm: str = "sha256", prefix: bytes = b"") -> str:
    """The hash of `prefix` and a file's content in hexadecimal, with a bar for large files."""
    total = hashlib.new(algorithm, prefix)
    with open(path, "rb") as file, byte_bar(path.stat().st_size, f"checking {label}") as bar:
        while chunk := file.read(CHUNK):
            total.update(chunk)
            bar.update(len(chunk))
    return total.hexdigest()


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
    if file.sha256 or _SHA256.fullmatch(etag):
        kind, expected, got = "sha256", file.sha256 or etag, digest(path, file.name)
    elif _GIT_SHA1.fullmatch(etag):  # small files: git's name of their content
        kind, expected, got = "git's sha1", etag, digest(path, file.name, "sha1", f"blob {size}\0".encode())
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


def _to_fetch(collection: Collection, folder: Path) -> int:
    """Bytes of a collection that are known to be lacking in `folder`; parts count as there."""
    lacking = [file for file in collection.files if not (folder / file.name).exists()]
    size = sum(file.size or 0 for file in lacking)
    if collection.total and any(file.size is None and not file.optional for file in lacking):
        unsized = [folder / file.name for file in collection.files if file.size is None]
        size += max(0, collection.total - sum(path.stat().st_size for path in unsized if path.exists()))
    parts = [folder / (file.name + ".part") for file in lacking]
    return max(0, size - sum(part.stat().st_size for part in parts if part.exists()))


def download(names: list[str], root: Path, endpoint: str = HUB) -> None:
    """Fetch the named collections into their folders under `root`.

    Raises:
        UserError: a file cannot be had or is not what it should be, or the disk is too small.
    """
    chosen = [COLLECTIONS[name] for name in names]
    needed = sum(_to_fetch(collection, root / collection.folder) for collection in chosen)
    make_output_folder(root)
    free = shutil.disk_usage(root).free
    logger.info("%s: %.1f GB to fetch into %s", ", ".join(names), needed / 1e9, root)
    if needed > free:
        raise UserError(f"{root}: {needed / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are free; make room")
    for collection in chosen:
        folder = root / collection.folder
        for file in collection.files:
            fetch(collection, file, folder, endpoint)
        _compare_total(collection, folder)


def _compare_total(collection: Collection, folder: Path) -> None:
    shards = [folder / file.name for file in collection.files if file.name.endswith((".safetensors", ".bin"))]
    size = sum(path.stat().st_size for path in shards)
    if collection.total and size != collection.total:
        logger.warning("%s: the weights have %s bytes; %s were reported", folder, f"{size:,}", f"{collection.total:,}")


def chosen_names(what: list[str]) -> list[str]:
    """The collections that the words of `--what` stand for, each once, in the order of the table.

    Raises:
        UserError: a word is neither a collection nor a group.
    """
    for word in what:
        if word not in GROUPS and word not in COLLECTIONS:
            raise UserError(f"--what {word!r} is not known; known are {', '.join([*GROUPS, *COLLECTIONS])}")
    wanted = {name for word in what for name in GROUPS.get(word, (word,))}
    return [name for name in COLLECTIONS if name in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m utils.download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", nargs="+", default=["all"], help=f"of {', '.join([*GROUPS, *COLLECTIONS])}")
    parser.add_argument("--out", type=Path, default=CHECKOUT, help="the folder that takes PixDLM/ and data/")
    parser.add_argument("--endpoint", default=os.environ.get("HF_ENDPOINT") or HUB, help="the hub or a mirror of it")
    args = parser.parse_args()
    if not re.match(r"https?://", args.endpoint):
        raise UserError(f"--endpoint {args.endpoint!r} is no address; it begins with https://")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    download(chosen_names(args.what), args.out, args.endpoint.rstrip("/"))
