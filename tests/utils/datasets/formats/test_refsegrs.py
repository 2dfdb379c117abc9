"""utils.datasets.formats.refsegrs, on small folders in the published layout."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.datasets.formats.drawn_pictures import boxed, save_mask, save_picture
from utils.datasets.base import BadRecord, target_masks
from utils.datasets.formats import refsegrs
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

BOX = (3, 4, 9, 10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three tiles, of which the first has two phrases, and a line for each split."""
    for name, box in (("12", BOX), ("007", (0, 0, 4, 4)), ("8", BOX)):
        save_picture(tmp_path / "images" / f"{name}.tif")
        save_mask(tmp_path / "masks" / f"{name}.tif", boxed(box, value=255))
    (tmp_path / "output_phrase_test.txt").write_text("12 road\n007\tvehicle in  the parking area\n\n12 paved road\r\n")
    (tmp_path / "output_phrase_val.txt").write_text("8 road\n")
    return tmp_path


def test_each_line_is_a_question_about_its_tile(root: Path) -> None:
    samples = load_dataset(root, "test", "refsegrs")
    assert [(one.key, one.question, one.image_path.name) for one in samples] == [
        ("12#0", "road", "12.tif"),
        ("007", "vehicle in  the parking area", "007.tif"),
        ("12#1", "paved road", "12.tif"),
    ]
    assert samples[0].targets[0] is samples[2].targets[0]
    assert (target_masks(samples[0], 30, 40)[0] == boxed(BOX)).all()
    assert (target_masks(samples[1], 30, 40)[0] == boxed((0, 0, 4, 4))).all()
    assert samples[0].size == (30, 40) and samples[0].answer is None and [one.index for one in samples] == [0, 1, 2]
    assert load_dataset(root, "val", "refsegrs")[0].record_id == "8"


def test_the_folder_around_it_may_be_named(root: Path) -> None:
    outer = root.with_name("outer")
    outer.mkdir()
    root.rename(outer / "RefSegRS")
    assert len(load_dataset(outer, "val", "refsegrs")) == 1


def test_masks_of_ones_are_read_and_other_values_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_mask(root / "masks" / "8.tif", boxed(BOX, value=1))
    assert (target_masks(load_dataset(root, "val", "refsegrs")[0], 30, 40)[0] == boxed(BOX)).all()
    assert not caplog.records
    values = boxed(BOX, value=255)
    values[0, 0] = 128
    save_mask(root / "masks" / "8.tif", values)
    with caplog.at_level(logging.WARNING):
        (sample,) = load_dataset(root, "val", "refsegrs")
    assert (target_masks(sample, 30, 40)[0] == boxed(BOX)).all()
    assert "1 masks have values besides 0, 1 and 255, the first masks/8.tif" in caplog.text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("road", r"line 1 is 'road', expected a number and a phrase"),
        ("12", r"line 1 is '12', expected a number and a phrase"),
        ("13 road", r"line 1 \(id 13\): its mask .*masks/13\.tif is missing"),
        ("9 road", r"line 1 \(id 9\): its mask .*9\.tif marks no pixel"),
        ("10 road", r"line 1 \(id 10\): its picture .*images/10\.tif is missing"),
        ("11 road", r"line 1 \(id 11\): .*11\.tif is 30x40 pixels, but the labels were drawn on 40x30"),
    ],
)
def test_bad_lines_are_named_or_skipped(root: Path, line: str, told: str) -> None:
    save_mask(root / "masks" / "9.tif", boxed(None))
    for name in ("10", "11"):
        save_mask(root / "masks" / f"{name}.tif", boxed(BOX, value=255))
    save_picture(root / "images" / "11.tif", (40, 30))
    (root / "output_phrase_val.txt").write_text(f"{line}\n8 road\n")
    with pytest.raises(BadRecord, match=told):
        load_dataset(root, "val", "refsegrs")
    left_out: list[str] = []
    samples = load_dataset(root, "val", "refsegrs", skip_bad_records=True, skipped=left_out)
    assert [(one.key, one.index) for one in samples] == [("8", 0)] and len(left_out) == 1


def test_a_mask_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = refsegrs.read_label_mask
    monkeypatch.setattr(refsegrs, "read_label_mask", lambda *args: asked.append(args[1].name) or read(*args))
    load_dataset(root, "test", "refsegrs")
    assert asked == ["12.tif", "007.tif"]


@pytest.mark.parametrize("part", ["images", "masks", "output_phrase_val.txt"])
def test_a_missing_part_is_told_with_the_layout(root: Path, part: str) -> None:
    (root / part).rename(root / "gone")
    with pytest.raises(UserError, match=rf"{part}: not there; (.|\n)*masks/ID\.tif(.|\n)*JessicaYuan"):
        load_dataset(root, "val", "refsegrs")


def test_a_list_that_is_no_text_is_told(root: Path) -> None:
    (root / "output_phrase_val.txt").write_bytes(b"8 caf\xe9\n")
    with pytest.raises(UserError, match=r"output_phrase_val\.txt: cannot be read as text in UTF-8"):
        load_dataset(root, "val", "refsegrs")


def test_a_mask_in_colours_is_read(root: Path) -> None:
    Image.fromarray(np.repeat(boxed(BOX, value=255)[..., None], 3, axis=2)).save(root / "masks" / "8.tif")
    assert (target_masks(load_dataset(root, "val", "refsegrs")[0], 30, 40)[0] == boxed(BOX)).all()


def test_there_are_three_rules() -> None:
    clean, official, segearth = (refsegrs.SPEC.scoring(name) for name in ("clean", "official", "segearth"))
    assert [one.canvas for one in (clean, official, segearth)] == ["picture", "square480", "letterbox1024"]
    assert [one.empty_iou for one in (clean, official, segearth)] == [1, 0, 1]
    assert [one.metrics[2] for one in (clean, official, segearth)] == ["pr50", "pr50", "pr50_strict"]
