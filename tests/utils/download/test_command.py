"""utils.download.command: what `--what` chooses, and where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.utils.download.hub import CONTENT, PINNED, Hub, collection, put
from utils.download import command as download
from utils.download.sources import Collection, RemoteFile
from utils.runtime.errors import UserError


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
