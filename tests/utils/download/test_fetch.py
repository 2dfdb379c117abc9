"""utils.download.fetch against a server of stand-ins on this machine: resuming, checking, refusing."""

from __future__ import annotations

import hashlib
import http.client
import socket
import urllib.error
from pathlib import Path

import pytest

from tests.utils.download.hub import CONTENT, GIT_SHA1, PINNED, SHA256, Hub, collection, put
from utils.download import fetch as fetching
from utils.download.sources import RemoteFile
from utils.runtime.errors import UserError


def test_a_file_arrives_verified_under_its_name(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    address = put(hub, where, "model.bin")
    assert fetching.fetch(where, PINNED, tmp_path / "deep", hub.endpoint) == tmp_path / "deep" / "model.bin"
    assert (tmp_path / "deep" / "model.bin").read_bytes() == CONTENT
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["model.bin"]
    assert address == f"/owner/name/resolve/{'f' * 40}/model.bin"


def test_a_cut_connection_goes_on_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    hub.cut_after = [300_000, 1, 200_000]
    fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert [span for _, span in hub.requests] == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]


def test_a_later_run_goes_on_where_the_first_gave_up(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    hub.cut_after = [400_000] + [0] * fetching.MAX_ATTEMPTS
    with pytest.raises(UserError, match=r"ended at 400,000 of 1,024,000 .* kept in .*model\.bin\.part"):
        fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin.part").stat().st_size == 400_000 and not (tmp_path / "model.bin").exists()
    hub.requests.clear()
    fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert [span for _, span in hub.requests] == ["bytes=400000-"]
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    hub.ranges = False
    (tmp_path / "model.bin.part").write_bytes(b"x" * 900_000)
    fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"more"], ids=["complete", "too long"])
def test_a_part_at_or_past_the_end(hub: Hub, tmp_path: Path, kept: bytes) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    (tmp_path / "model.bin.part").write_bytes(kept)
    fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_busy_servers_are_asked_again_and_dead_ones_named(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    put(hub, where, "model.bin")
    hub.failures = 2
    assert fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    with pytest.raises(UserError, match=r"the connection failed \(Connection refused\)"):
        fetching.fetch(where, PINNED, tmp_path / "other", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (urllib.error.URLError(TimeoutError("timed out")), "timed out"),
        (urllib.error.URLError(socket.gaierror(-2, "Name or service not known")), "Name or service not known"),
        (http.client.RemoteDisconnected("Remote end closed connection"), "Remote end closed connection"),
        (http.client.CannotSendRequest(), "CannotSendRequest"),
    ],
)
def test_a_lost_connection_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def lost(*_: object) -> None:
        raise error

    monkeypatch.setattr(fetching, "_request", lost)
    monkeypatch.setattr(fetching, "RETRY_PAUSE", 0.0)
    with pytest.raises(UserError, match=rf"the connection failed \({message}\)"):
        fetching.fetch(collection(PINNED), PINNED, tmp_path)


def test_a_wrong_checksum_names_both_and_keeps_nothing(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    other = bytes(len(CONTENT))
    put(hub, where, "model.bin", other)
    with pytest.raises(UserError) as caught:
        fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
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
        fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert not (tmp_path / "model.bin").exists()


@pytest.mark.parametrize("etag", [SHA256, GIT_SHA1], ids=["large file", "small file"])
def test_without_a_pin_the_hubs_hash_counts(hub: Hub, tmp_path: Path, etag: str) -> None:
    file = RemoteFile("shard.safetensors")
    where = collection(file)
    address = put(hub, where, file.name, etag=etag)
    hub.redirect = True  # storage has ETags of its own
    fetching.fetch(where, file, tmp_path / "good", hub.endpoint)
    hub.files[address] = CONTENT[::-1]
    with pytest.raises(UserError, match=f"expected .* {etag}, got"):
        fetching.fetch(where, file, tmp_path / "bad", hub.endpoint)
    assert not list((tmp_path / "bad").iterdir())


def test_a_file_that_is_there_is_checked_and_never_overwritten(hub: Hub, tmp_path: Path) -> None:
    where = collection(PINNED)
    (tmp_path / "model.bin").write_bytes(CONTENT)
    fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    (tmp_path / "model.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match="expected 1,024,000 bytes, got 4.*Move that file away"):
        fetching.fetch(where, PINNED, tmp_path, hub.endpoint)
    assert (tmp_path / "model.bin").read_bytes() == b"mine" and not hub.requests


def test_places_in_the_repository_are_tried_in_turn(hub: Hub, tmp_path: Path) -> None:
    file = RemoteFile("config.json", ("pretrained/config.json", "config.json"))
    optional = RemoteFile("added.json", optional=True)
    where = collection(file, optional)
    put(hub, where, "config.json", b"{}")
    assert fetching.fetch(where, file, tmp_path, hub.endpoint)
    assert fetching.fetch(where, optional, tmp_path, hub.endpoint) is None
    with pytest.raises(UserError, match="absent.json: not found at .*resolve"):
        fetching.fetch(where, RemoteFile("absent.json"), tmp_path, hub.endpoint)
