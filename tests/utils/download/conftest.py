"""A server and an archive that take the place of the hub and of DRSeg's archive."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.utils.download.archive import COUNTS, pack, published_members
from tests.utils.download.hub import Hub, make_handler
from utils.download import fetch as fetching
from utils.download import prepare_drseg
from utils.download.sources import DRSEG


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "RETRY_PAUSE", 0.0)
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good archive, pinned."""
    path = pack(tmp_path / "DRSeg.zip", published_members())
    content = path.read_bytes()
    file = dataclasses.replace(DRSEG.files[0], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(prepare_drseg, "DRSEG", dataclasses.replace(DRSEG, files=(file,)))
    monkeypatch.setattr(prepare_drseg, "DRSEG_RECORDS", COUNTS)
    return path
