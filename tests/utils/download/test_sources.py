"""utils.download.sources: the pins, and what a missing file's message says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from utils.download import sources as published
from utils.runtime.errors import UserError


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
