"""utils.download.sources: the pins, and what a missing file's message says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from utils.download import sources
from utils.runtime.errors import UserError


def test_pinned_revisions_and_hashes_are_complete() -> None:
    for each in sources.COLLECTIONS.values():
        assert re.fullmatch("[0-9a-f]{40}", each.revision), each.name
        for file in each.files:
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256), file.name
            assert (file.sha256 is None) == (file.size is None), file.name


def test_missing_files_are_listed_with_their_source_and_the_cure(tmp_path: Path) -> None:
    (tmp_path / "PixDLM/weights/clip").mkdir(parents=True)
    for file in sources.CLIP.files:
        (tmp_path / "PixDLM/weights/clip" / file.name).touch()
    data = tmp_path / "data/DRSeg"
    (data / "labels").mkdir(parents=True)
    sources.require(["clip"], data, tmp_path)
    (data / "labels").rmdir()
    with pytest.raises(UserError) as caught:
        sources.require(["clip", "sam2"], data, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "PixDLM/weights/sam2/sam2.1_hiera_large.pt") in message and "clip" not in message
    assert "https://huggingface.co/datasets/WhynotHug/DRSeg" in message and f"{data}/labels" in message
    assert "python -m utils.download --what sam2 drseg" in message and "train.sh mini" in message
    assert len(re.findall("python -m", message)) == 1 and "--data" not in message  # one command, and no more to do


def test_data_that_the_download_alone_does_not_bring(tmp_path: Path) -> None:
    """It lays DRSeg out in data/DRSeg only, and only where nothing is."""
    with pytest.raises(UserError, match=f"lays DRSeg out in {tmp_path}/data/DRSeg: pass --data .* to {tmp_path}/own"):
        sources.require([], tmp_path / "own", tmp_path)
    (tmp_path / "data/DRSeg").mkdir(parents=True)
    (tmp_path / "data/DRSeg/notes.txt").touch()
    with pytest.raises(UserError, match="after moving .*data/DRSeg away, which has content but no labels"):
        sources.require([], tmp_path / "data/DRSeg", tmp_path)
