"""utils.download.fetch against a server of stand-ins on this machine: resuming, checking, refusing."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import threading
import urllib.error
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from utils.download import fetch as download
from utils.download import sources as published
from utils.download.sources import Collection, RemoteFile
from utils.runtime.errors import UserError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_SHA1 = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


@dataclass
class Hub:
    """What the server has and how it behaves; `asked` lists path and Range of each request."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    cut_after: list[int | None] = field(default_factory=list)  # bytes of the body that the nth answer sends
    failures: int = 0  # that many answers are 503 first
    ranges: bool = True
    redirect: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    endpoint: str = ""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, span = self.path, self.headers.get("Range")
            stored = path.startswith("/storage")
            name = path.removeprefix("/storage")
            if hub.redirect and not stored and name in hub.files:
                self._head(302, {"Location": f"{hub.endpoint}/storage{name}", "X-Linked-Etag": f'"{hub.etags[name]}"'})
                return
            hub.asked.append((path, span))
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def collection(*files: RemoteFile, **fields) -> Collection:
    return Collection("standin", "owner/name", "f" * 40, "weights/standin", files, "a stand-in", **fields)


def put(hub: Hub, where: Collection, path: str, content: bytes = CONTENT, etag: str = "") -> str:
    address = where.url(path, "")
    hub.files[address], hub.etags[address] = content, etag
    return address


PINNED = RemoteFile("model.bin", size=len(CONTENT), sha256=SHA256)


def test_a_file_arrives_verified_under_its_name(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    address = put(hub, where, "model.bin")
    assert download.fetch(where, PINNED, tmp_path / "deep", hub.endpoint) == tmp_path / "deep" / "model.bin"
    assert (tmp_path / "deep" / "model.bin").read_bytes() == CONTENT
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["model.bin"]
    assert address == f"/owner/name/resolve/{'f' * 40}/model.bin"


def test_a_cut_connection_goes_on_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    hub.cut_after = [300_000, 1, 200_000]
    download.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert [span for _, span in hub.asked] == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]


def test_a_later_run_goes_on_where_the_first_gave_up(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    hub.cut_after = [400_000] + [0] * download.TRIES
    with pytest.raises(UserError, match=r"ended at 400,000 of 1,024,000 .* kept in .*model\.bin\.part"):
        download.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin.part").stat().st_size == 400_000 and not (tmp_path / "model.bin").exists()
    hub.asked.clear()
    download.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert [span for _, span in hub.asked] == ["bytes=400000-"]
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    hub.ranges = False
    (tmp_path / "model.bin.part").write_bytes(b"x" * 900_000)
    download.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"more"], ids=["complete", "too long"])
def test_a_part_at_or_past_the_end(hub: Hub, tmp_path: Path, kept: bytes) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    (tmp_path / "model.bin.part").write_bytes(kept)
    download.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_busy_servers_are_asked_again_and_dead_ones_named(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    hub.failures = 2
    assert download.fetch(where, PINNED, tmp_path, hub.endpoint)
    with pytest.raises(UserError, match=r"the connection failed \(Connection refused\)"):
        download.fetch(where, PINNED, tmp_path / "other", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (urllib.error.URLError(TimeoutError("timed out")), "timed out"),
        (urllib.error.URLError(socket.gaierror(-2, "Name or service not known")), "Name or service not known"),
        (http.client.RemoteDisconnected("Remote end closed connection"), "Remote end closed connection"),
        (http.client.CannotSendRequest(), "CannotSendRequest"),
    ],
)
def test_a_lost_connection_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def lost(*_: object) -> None:
        raise error

    monkeypatch.setattr(download, "_ask", lost)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with pytest.raises(UserError, match=rf"the connection failed \({told}\)"):
        download.fetch(collection(PINNED), PINNED, tmp_path)


def test_a_wrong_checksum_names_both_and_keeps_nothing(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    other = bytes(len(CONTENT))
    put(hub, where, "model.bin", other)
    with pytest.raises(UserError) as caught:
        download.fetch(where, PINNED, tmp_path, hub.endpoint)
    for part in ("model.bin", SHA256, hashlib.sha256(other).hexdigest()):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["size", "sha256"])
def test_another_file_is_refused_before_it_is_fetched(hub: Hub, tmp_path: Path, what: str) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin", CONTENT + b"x" if what == "size" else CONTENT, etag="a" * 64)
    with pytest.raises(
        UserError, match="1,024,000 bytes, got 1,024,001" if what == "size" else f"{SHA256}, got {'a' * 64}"
    ):
        download.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert not (tmp_path / "model.bin").exists()


@pytest.mark.parametrize("etag", [SHA256, GIT_SHA1], ids=["large file", "small file"])
def test_without_a_pin_the_hubs_word_counts(hub: Hub, tmp_path: Path, etag: str) -> None:
    file = RemoteFile("shard.safetensors")
    where = collection(file)
    address = put(hub, where, file.name, etag=etag)
    hub.redirect = True  # storage has ETags of its own
    download.fetch(where, file, tmp_path / "good", hub.endpoint)
    hub.files[address] = CONTENT[::-1]
    with pytest.raises(UserError, match=f"expected .* {etag}, got"):
        download.fetch(where, file, tmp_path / "bad", hub.endpoint)
    assert not list((tmp_path / "bad").iterdir())


def test_a_file_that_is_there_is_checked_and_never_overwritten(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    (tmp_path / "model.bin").write_bytes(CONTENT)
    download.fetch(where, PINNED, tmp_path, hub.endpoint)
    (tmp_path / "model.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match="expected 1,024,000 bytes, got 4.*Move that file away"):
        download.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin").read_bytes() == b"mine" and not hub.asked


def test_places_in_the_repository_are_tried_in_turn(hub: Hub, tmp_path: Path) -> None:
    file = RemoteFile("config.json", ("pretrained/config.json", "config.json"))
    optional = RemoteFile("added.json", optional=True)
    where = collection(file, optional)
    put(hub, where, "config.json", b"{}")
    assert download.fetch(where, file, tmp_path, hub.endpoint)
    assert download.fetch(where, optional, tmp_path, hub.endpoint) is None
    with pytest.raises(UserError, match="absent.json: not found at .*resolve"):
        download.fetch(where, RemoteFile("absent.json"), tmp_path, hub.endpoint)


def test_download_fills_the_folders_and_warns_of_another_total(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shards = [RemoteFile(f"model-{i}.safetensors") for i in (1, 2)]
    weights = collection(*shards, total=2 * len(CONTENT) + 1)
    data = Collection("data", "owner/set", "e" * 40, "data", (PINNED,), "data", is_dataset=True)
    for shard in shards:
        put(hub, weights, shard.name)
    assert put(hub, data, "model.bin").startswith("/datasets/owner/set/")
    monkeypatch.setattr(download, "COLLECTIONS", {"standin": weights, "data": data})
    download.download(["standin", "data"], tmp_path, hub.endpoint)
    assert sorted(path.name for path in (tmp_path / "weights/standin").iterdir()) == [each.name for each in shards]
    assert (tmp_path / "data/model.bin").read_bytes() == CONTENT
    assert "2,048,000 bytes; 2,048,001 were reported" in caplog.text


def test_a_full_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    with pytest.raises(UserError, match=r"1\.7 GB are to be fetched and 1\.0 GB are free"):
        download.download(["clip"], tmp_path)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out .*below: cannot be made a folder"):
        download.download(["clip"], tmp_path / "file" / "below")


def test_what_words_stand_for() -> None:
    assert download.chosen_names(["data", "clip", "drseg"]) == ["clip", "drseg"]
    assert download.chosen_names(["all"]) == ["clip", "sam2", "llava", "pixdlm", "drseg"]
    with pytest.raises(UserError, match="'claude' is not known; known are all, weights, data, clip"):
        download.chosen_names(["claude"])


def test_pins_are_whole() -> None:
    for each in published.COLLECTIONS.values():
        assert re.fullmatch("[0-9a-f]{40}", each.revision), each.name
        for file in each.files:
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256), file.name
            assert (file.sha256 is None) == (file.size is None), file.name


def test_missing_files_are_listed_with_their_source_and_the_cure(tmp_path: Path) -> None:
    (tmp_path / "PixDLM/weights/clip").mkdir(parents=True)
    for file in published.CLIP.files:
        (tmp_path / "PixDLM/weights/clip" / file.name).touch()
    data = tmp_path / "data/DRSeg"
    (data / "labels").mkdir(parents=True)
    published.require(["clip"], data, tmp_path)
    (data / "labels").rmdir()
    with pytest.raises(UserError) as caught:
        published.require(["clip", "sam2"], data, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "PixDLM/weights/sam2/sam2.1_hiera_large.pt") in message and "clip" not in message
    assert "https://huggingface.co/datasets/WhynotHug/DRSeg" in message and f"{data}/labels" in message
    assert "python -m utils.download --what sam2 drseg" in message and "train.sh mini" in message
    assert f"python -m utils.download.prepare_drseg data/DRSeg.zip --out {data}" in message
