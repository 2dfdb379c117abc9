"""utils.datasets.picture_names: pictures that are there under another spelling of their name."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.datasets.base import BadRecord
from utils.datasets.registry import load_dataset

Make = Callable[..., Any]
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "vol_é") for form in ("NFC", "NFD"))


@pytest.fixture
def renamed(make_drseg: Make, make_record: Make) -> Callable[..., Path]:
    """A split of one record whose picture is moved to other names."""

    def make(record_id: str, *names: str | bytes) -> Path:
        root = make_drseg([make_record(record_id)])
        folder = root / "CODrone/DRtest"
        content = (folder / f"{record_id}.jpg").read_bytes()
        (folder / f"{record_id}.jpg").unlink()
        for name in names:
            (folder / os.fsdecode(name)).write_bytes(content)
        return root

    return make


@pytest.mark.parametrize(
    ("record_id", "name"),
    [
        ("a", "a.JPG"),
        ("a", "a.jpeg"),
        ("a.b", "a.b.Jpeg"),
        (COMPOSED, f"{DECOMPOSED}.jpg"),
        (DECOMPOSED, f"{COMPOSED}.JPEG"),
        (COMPOSED, b"vol_\xe9.jpg"),
        (COMPOSED, b"vol_\x82.JPG"),
    ],
)
def test_a_picture_is_found_and_that_is_told(
    renamed: Callable[..., Path], caplog: pytest.LogCaptureFixture, record_id: str, name: str | bytes
) -> None:
    with caplog.at_level(logging.WARNING):
        (one,) = load_dataset(renamed(record_id, name), "test")
    assert one.image_path.name == os.fsdecode(name) and one.record_id == record_id
    assert "1 pictures are named otherwise than their records say" in caplog.text


def test_a_name_that_is_there_comes_first(renamed: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    (one,) = load_dataset(renamed(COMPOSED, f"{COMPOSED}.jpg", f"{DECOMPOSED}.jpg", f"{COMPOSED}.JPG"), "test")
    assert one.image_path.name == f"{COMPOSED}.jpg" and not caplog.text


def test_what_cannot_be_told_apart_is_refused(renamed: Callable[..., Path], make_record: Make) -> None:
    with pytest.raises(BadRecord, match=r"several are meant by it: 'a.JPG', 'a.jpeg'"):
        load_dataset(renamed("a", "a.JPG", "a.jpeg"), "test")
    with pytest.raises(BadRecord, match=r"is missing"):
        load_dataset(renamed("b", "B.jpg", "b.png"), "test")


def test_one_picture_is_not_that_of_two_names(make_drseg: Make, make_record: Make) -> None:
    records = [make_record("vol_é"), make_record("vol_Θ")]  # 0xE9 in cp1252 and in cp437
    root = make_drseg(records, sizes={"vol_é": None, "vol_Θ": None})
    make_drseg([make_record("x")], split="val")
    (root / "CODrone/DRval/x.jpg").rename(root / "CODrone/DRtest" / os.fsdecode(b"vol_\xe9.jpg"))
    with pytest.raises(BadRecord, match=r"record 1 .* would be its picture and that of 'vol_\\xe9.jpg'; rename it"):
        load_dataset(root, "test")
