"""utils.download.command: what `--what` chooses, and where it goes."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import CHECKOUT
from tests.utils.download.archive import check_layout, pack, published_members
from tests.utils.download.hub import CONTENT, PINNED, Hub, collection, put
from utils.download import command, prepare_drseg
from utils.download.sources import Collection, RemoteFile
from utils.runtime.errors import UserError

FETCH_AND_LAY_OUT = """
import sys
from pathlib import Path
from utils.download.fetch import fetch
from utils.download.prepare_drseg import prepare
from utils.download.sources import Collection, RemoteFile

endpoint, size, sha256, archive, out = sys.argv[1:]
file = RemoteFile("model.bin", size=int(size), sha256=sha256)
fetch(Collection("c", "owner/name", "f" * 40, "c", (file,), ""), file, Path(out), endpoint)
prepare(Path(archive), Path(out) / "DRSeg", checksum=False)
"""


@pytest.fixture
def drseg(hub: Hub, archive: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A server that has the small archive in place of DRSeg's, and a file of weights."""
    weights = collection(PINNED)
    put(hub, weights, PINNED.name)
    put(hub, prepare_drseg.DRSEG, "DRSeg.zip", archive.read_bytes())
    monkeypatch.setattr(command, "COLLECTIONS", {"standin": weights, "drseg": prepare_drseg.DRSEG})
    return hub


@pytest.mark.parametrize("names", [["drseg"], ["standin", "drseg"]], ids=["alone", "all"])
def test_drseg_is_laid_out_once_it_is_fetched(
    drseg: Hub, tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    command.download(names, tmp_path, drseg.endpoint)
    check_layout(tmp_path / "data/DRSeg")
    assert len(drseg.requests) == len(names) and (tmp_path / "data/DRSeg.zip").exists()
    assert "3 train, 2 val, 4 test" in caplog.text and "the archive is not needed any more" in caplog.text
    (tmp_path / "data/DRSeg.zip").unlink()
    drseg.requests.clear()
    command.download(names, tmp_path, drseg.endpoint)  # nothing is fetched for what is there
    assert not drseg.requests and not (tmp_path / "data/DRSeg.zip").exists()
    check_layout(tmp_path / "data/DRSeg")


def test_a_data_folder_with_content_is_left_as_it_is(
    drseg: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "data/DRSeg").mkdir(parents=True)
    (tmp_path / "data/DRSeg/mine.txt").write_text("mine")
    command.download(["standin", "drseg"], tmp_path, drseg.endpoint)
    assert [path.name for path in (tmp_path / "data").rglob("*")] == ["DRSeg", "mine.txt"]
    assert (tmp_path / "weights/standin/model.bin").read_bytes() == CONTENT
    assert f"{tmp_path}/data/DRSeg: there already, left as it is" in caplog.text
    (tmp_path / "data/DRSeg/mine.txt").unlink()
    command.download(["drseg"], tmp_path, drseg.endpoint)  # an empty one is filled
    check_layout(tmp_path / "data/DRSeg")


def test_an_archive_that_is_there_is_laid_out_without_a_download(drseg: Hub, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    archive.rename(tmp_path / "data/DRSeg.zip")
    command.download(["drseg"], tmp_path, drseg.endpoint)
    check_layout(tmp_path / "data/DRSeg")
    assert not drseg.requests


def bare_python(*arguments: str | Path) -> subprocess.CompletedProcess:
    """A Python that finds no installed package."""
    command_line = [sys.executable, "-S", "-E", *map(str, arguments)]
    return subprocess.run(command_line, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)


def test_nothing_needs_to_be_installed(hub: Hub, tmp_path: Path) -> None:
    assert bare_python("-c", "import numpy").returncode == 1
    for module in ("utils.download", "utils.download.prepare_drseg"):
        ended = bare_python("-m", module, "--help")
        assert ended.returncode == 0 and f"usage: python -m {module}" in ended.stdout, ended.stderr
    put(hub, collection(PINNED), PINNED.name)
    archive = pack(tmp_path / "DRSeg.zip", published_members())
    arguments = (hub.endpoint, str(PINNED.size), PINNED.sha256, archive, tmp_path / "out")
    ended = bare_python("-c", FETCH_AND_LAY_OUT, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out/model.bin").read_bytes() == CONTENT
    check_layout(tmp_path / "out/DRSeg")


def test_download_fills_the_folders_and_warns_of_another_total(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shards = [RemoteFile(f"model-{i}.safetensors") for i in (1, 2)]
    weights = collection(*shards, total=2 * len(CONTENT) + 1)
    data = Collection("data", "owner/set", "e" * 40, "data", (PINNED,), "data", is_dataset=True)
    for shard in shards:
        put(hub, weights, shard.name)
    assert put(hub, data, "model.bin").startswith("/datasets/owner/set/")
    monkeypatch.setattr(command, "COLLECTIONS", {"standin": weights, "data": data})
    command.download(["standin", "data"], tmp_path, hub.endpoint)
    assert sorted(path.name for path in (tmp_path / "weights/standin").iterdir()) == [each.name for each in shards]
    assert (tmp_path / "data/model.bin").read_bytes() == CONTENT
    assert "2,048,000 bytes; 2,048,001 were reported" in caplog.text


def test_a_disk_that_is_too_small_is_named_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    with pytest.raises(UserError, match=r"1\.7 GB are to be fetched and 1\.0 GB are free"):
        command.download(["clip"], tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out .*below: cannot be made a folder"):
        command.download(["clip"], tmp_path / "file" / "below")


def test_groups_are_resolved() -> None:
    assert command.collection_names(["data", "clip", "drseg"]) == ["clip", "drseg"]
    assert command.collection_names(["all"]) == ["clip", "sam2", "llava", "pixdlm", "drseg"]
    with pytest.raises(UserError, match="'claude' is unknown; use all, weights, data, clip"):
        command.collection_names(["claude"])
