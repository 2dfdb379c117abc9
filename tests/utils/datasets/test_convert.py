"""utils.datasets.convert: DRSeg's layout with the same questions, masks and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.inputs.picture_files import decoded, opened_picture
from model.masks import encode_mask
from tests.utils.datasets.formats.drawn_own import SIZE, annotation, box, draw_picture, write_coco
from utils.datasets import convert as module
from utils.datasets.base import Sample, target_masks
from utils.datasets.convert import convert, log_converted
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError


def own(root: Path) -> Path:
    """Two pictures called `a`, one of them a PNG; polygons, and run lengths with a hole."""
    ring = np.zeros(SIZE, np.uint8)
    ring[20:50, 20:60] = 1
    ring[30:40, 30:50] = 0
    draw_picture(root / "images" / "north" / "a.jpg", {(10, 10, 30, 20): (30, 60, 200)})
    draw_picture(root / "images" / "south" / "A.png", {(10, 10, 30, 20): (200, 60, 30)})
    rows = [
        annotation(1, 1, [box(10, 10, 30, 20), box(70, 50, 95, 75)], question="Which has two parts?", answer="This."),
        annotation(2, 1, encode_mask(ring), question="Which are rings?"),
        annotation(3, 1, [box(0, 0, 9, 9)], question="Which are rings?"),
        annotation(4, 2, encode_mask(ring), question="Which is a ring?"),
    ]
    asked = {"questions": [{"question": "Where is a pond?", "no_target": True}]}
    images = {1: "north/a.jpg", 2: {"file_name": "south/A.png", **asked}}
    write_coco(root / "instances.json", images, rows)
    return root


def alike(first: Sample, second: Sample) -> bool:
    masks = [target_masks(one, *one.size) for one in (first, second)]
    return (first.question, first.answer) == (second.question, second.answer) and np.array_equal(*masks)


def test_the_same_questions_masks_and_pictures_are_read_back(tmp_path: Path) -> None:
    root, out = own(tmp_path / "own"), tmp_path / "new"
    (done,) = convert(root, ["all"], "coco", out).values()
    before, after = load_dataset(root, "all", "coco"), load_dataset(out, "all")
    assert len(before) == 4 and all(map(alike, before, after)) and [len(one.targets) for one in after] == [1, 2, 1, 0]
    assert (done.questions, done.pictures, done.encoded, done.inexact) == (4, 1, 1, [])
    assert [one.image_path.name for one in after] == ["a.jpg", "a.jpg", "A_2.jpg", "A_2.jpg"]
    assert after[0].image_path.samefile(root / "images" / "north" / "a.jpg")
    difference = np.abs(
        np.asarray(Image.open(after[2].image_path), float) - np.asarray(Image.open(before[2].image_path))
    )
    assert difference.mean() < 2


def test_groups_of_drseg_are_kept(
    make_drseg: Callable[..., Path], make_record: Callable[..., Any], tmp_path: Path
) -> None:
    root = make_drseg([make_record("a", altitude=60), make_record("b", reasoning_types=[None])])
    convert(root, ["test"], "drseg", tmp_path / "new")
    assert [one.groups for one in load_dataset(tmp_path / "new", "test")] == [
        {"reasoning_type": "attribute", "altitude": 60}, {},
    ]  # fmt: skip


def test_orientation_tags_are_resolved_as_the_labels_see_them(tmp_path: Path) -> None:
    draw_picture(tmp_path / "a.jpg", {(0, 0, 40, 30): (200, 0, 0)})
    with Image.open(tmp_path / "a.jpg") as picture:
        tag = picture.getexif()
        tag[0x112] = 3  # upside down
        picture.save(tmp_path / "a.jpg", exif=tag, quality=95)
    write_coco(tmp_path / "instances.json", {1: "a.jpg"}, [annotation(1, 1, [box(0, 0, 40, 30)])])
    for orientation, corner in (("apply", (59, 79)), ("stored", (0, 0))):
        convert(tmp_path, ["all"], "coco", tmp_path / orientation, orientation=orientation)
        (one,) = load_dataset(tmp_path / orientation, "all")
        with opened_picture(one.image_path) as opened:
            assert decoded(opened)[corner][0] > 150


def test_what_the_layout_cannot_hold_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "rle_polygons", lambda rle: ([[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]], 0.91))
    (done,) = convert(own(tmp_path / "own"), ["all"], "coco", tmp_path / "new").values()
    done.ignored = 2
    with caplog.at_level(logging.INFO):
        log_converted("all", done)
    assert "all: 2 masks are drawn only nearly by polygons, the worst with IoU 0.9100" in caplog.text
    assert "1 pictures are no JPEG as stored" in caplog.text and "2 questions have a region" in caplog.text


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = own(tmp_path / "own"), tmp_path / "new"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="the disk is full"):
        patch.setattr(module, "link_or_copy", full)
        convert(root, ["all"], "coco", out)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    convert(root, ["all"], "coco", out)
    with pytest.raises(UserError, match="new: has content already"):
        convert(root, ["all"], "coco", out)
