"""utils.datasets.formats.reasonseg, on small folders in the published layout."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from tests.utils.datasets.formats.drawn_pictures import save_picture
from utils.datasets.base import BadRecord, Sample, target_masks
from utils.datasets.formats import reasonseg
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

SQUARE = [[5.9, 5.2], [14.7, 5.2], [14.7, 14.9], [5.9, 14.9]]


def shape(points: Any = SQUARE, label: Any = "target") -> dict[str, Any]:
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points}


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def add(root: Path, split: str, name: str = "a", encoding: str = "utf-8", **fields: Any) -> Path:
    """Write a picture and its labels; keywords replace the fields."""
    labels = {"text": ["the thing that rings", "the bell"], "is_sentence": False, "shapes": [shape()], **fields}
    folder = root / "ReasonSeg" / split
    save_picture(folder / f"{name}.jpg")
    (folder / f"{name}.json").write_text(json.dumps(labels, ensure_ascii=False), encoding)
    return folder


def drawn(sample: Sample) -> np.ndarray:
    return target_masks(sample, *sample.size)[0]


def test_the_first_text_of_validation_is_asked_and_every_one_of_training(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        add(tmp_path, split)
        add(tmp_path, split, "b", text=[" What would ring? "], is_sentence=True)
    for split in ("val", "test"):
        phrase, sentence = load_dataset(tmp_path, split, "reasonseg")
        assert (phrase.key, phrase.question) == ("a", "What is the thing that rings in this image?")
        assert (sentence.key, sentence.question) == ("b", "What would ring?")
        assert (phrase.groups, sentence.groups) == ({"query": "short"}, {"query": "long"})
        assert (phrase.size, phrase.answer, phrase.ignore) == ((30, 40), None, None)
    for split, name in (("train", "reasonseg"), ("val", "reasonseg-all-texts"), ("train", "reasonseg-all-texts")):
        samples = load_dataset(tmp_path, split, name)
        assert [sample.key for sample in samples] == ["a#0", "a#1", "b"]
        assert [sample.index for sample in samples] == [0, 1, 2] and {one.dataset for one in samples} == {name}
        assert samples[1].question == "What is the bell in this image?"
        assert samples[0].targets is samples[1].targets or samples[0].targets[0] is samples[1].targets[0]


def test_the_folder_may_be_named_itself(tmp_path: Path) -> None:
    add(tmp_path, "val")
    assert len(load_dataset(tmp_path / "ReasonSeg", "val", "reasonseg")) == 1


def test_a_polygon_is_filled_and_outlined_with_points_cut_off(tmp_path: Path) -> None:
    add(tmp_path, "val")
    (sample,) = load_dataset(tmp_path, "val", "reasonseg")
    expected = np.zeros((30, 40), np.uint8)
    expected[5:15, 5:15] = 1  # both ends are inside; pycocotools would leave the last row and column out
    assert (drawn(sample) == expected).all()


def test_smaller_shapes_paint_over_larger_ones_and_flags_are_left_out(tmp_path: Path) -> None:
    shapes = [
        shape(box(8, 8, 10, 10)),  # the target inside the ignored region inside the target
        shape(box(6, 6, 14, 14), "Ignore_this"),
        shape(box(0, 0, 39, 29), "FLAG"),
        shape(box(2, 2, 20, 20)),
    ]
    add(tmp_path, "val", shapes=shapes)
    (sample,) = load_dataset(tmp_path, "val", "reasonseg")
    expected = np.zeros((30, 40), np.uint8)
    for points, value in (((2, 20), 1), ((6, 14), 255), ((8, 10), 1)):
        expected[points[0] : points[1] + 1, points[0] : points[1] + 1] = value
    assert (drawn(sample) == expected).all()
    assert (coco.decode(sample.ignore) == (expected == 255)).all()
    assert isinstance(sample.ignore["counts"], str)


def test_area_is_what_is_drawn_not_what_the_points_enclose(tmp_path: Path) -> None:
    outside = [[-500, 0], [2, 0], [2, 29], [-500, 29]]  # large, but little of it lies in the picture
    add(tmp_path, "val", shapes=[shape(box(0, 5, 12, 15)), shape(outside, "ignore")])
    (sample,) = load_dataset(tmp_path, "val", "reasonseg")
    assert drawn(sample)[8, 1] == 255 and drawn(sample)[8, 5] == 1


def test_a_label_file_in_cp1252_is_read(tmp_path: Path) -> None:
    folder = add(tmp_path, "val", encoding="cp1252", text=["the café’s sign"])
    assert load_dataset(tmp_path, "val", "reasonseg")[0].question == "What is the café’s sign in this image?"
    (folder / "a.json").write_bytes(b'{"text": "\x81"}')
    with pytest.raises(BadRecord, match=r"a\.json: neither JSON in UTF-8 nor in cp1252"):
        load_dataset(tmp_path, "val", "reasonseg")


def test_answers_in_words_belong_to_picture_and_instruction(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path, "train")
    add(tmp_path, "train", "b")
    file = tmp_path / "ReasonSeg" / "explanatory" / "train.json"
    file.parent.mkdir()
    items = [
        {"image": "a.jpg", "query": "the bell ", "outputs": " It is of brass."},
        {"image": "b.jpg", "query": "another", "outputs": "No."},
    ]
    file.write_text(json.dumps(items))
    with caplog.at_level(logging.WARNING):
        samples = load_dataset(tmp_path, "train", "reasonseg")
    assert [sample.answer for sample in samples] == [None, "It is of brass.", None, None]
    assert "1 of its 2 answers in words belong to no question" in caplog.text
    file.write_text(json.dumps([items[0], {"image": "b.jpg", "query": 5}]))
    with pytest.raises(BadRecord, match=r"explanatory/train\.json: item 1 is .* expected the texts image, query and"):
        load_dataset(tmp_path, "train", "reasonseg")
    left_out: list[str] = []
    assert len(load_dataset(tmp_path, "train", "reasonseg", skip_bad_records=True, skipped=left_out)) == 4
    assert len(left_out) == 1 and "item 1" in left_out[0]
    file.write_text("{}")
    with pytest.raises(UserError, match="holds a dict, expected a list of image, query and outputs"):
        load_dataset(tmp_path, "train", "reasonseg")


def test_missing_answers_in_words_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path, "train")
    with caplog.at_level(logging.WARNING):
        load_dataset(tmp_path, "train", "reasonseg")
    assert "explanatory/train.json is missing" in caplog.text


def test_labels_lie_on_the_picture_as_opencv_turns_it(tmp_path: Path) -> None:
    folder = add(tmp_path, "val")
    save_picture(folder / "a.jpg", (40, 30), orientation=6)
    (sample,) = load_dataset(tmp_path, "val", "reasonseg")
    assert cv2.imread(str(folder / "a.jpg")).shape[:2] == sample.size == (30, 40) and sample.upright
    (stored,) = load_dataset(tmp_path, "val", "reasonseg", orientation="stored")
    assert stored.size == (40, 30) and not stored.upright


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"text": []}, r"text is \[\], expected a list of instructions"),
        ({"text": ["  "]}, r"text 0 is '  ', expected a text"),
        ({"is_sentence": 1}, r"is_sentence is 1, expected true or false"),
        ({"shapes": {}}, r"shapes is \{\}, expected a list"),
        ({"shapes": [{"points": SQUARE}]}, r"shape 0 has no label"),
        ({"shapes": [shape([])]}, r"shape 0: points are \[\], expected a list of \[x, y\]"),
        ({"shapes": [shape([[1, 2], [3]])]}, r"shape 0: points are .* expected a list of \[x, y\]"),
        ({"shapes": [shape([[1, 2], [3, True]])]}, r"shape 0: points are .* expected a list of \[x, y\]"),
        ({"shapes": [shape([[1, 2], [3, float("nan")], [5, 9]])]}, r"shape 0 has a coordinate that is no pixel's"),
        ({"shapes": [shape(label="flag")]}, r"its shapes cover no pixel"),
        ({"shapes": [shape(label="ignore")]}, r"its shapes cover no pixel"),
    ],
)
def test_bad_labels_are_named_or_skipped(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    add(tmp_path, "val", "bad", **fields)
    add(tmp_path, "val", "good")
    with pytest.raises(BadRecord, match=rf"val: bad\.json.*{told}.*--skip-bad-records"):
        load_dataset(tmp_path, "val", "reasonseg")
    left_out: list[str] = []
    samples = load_dataset(tmp_path, "val", "reasonseg", skip_bad_records=True, skipped=left_out)
    assert [(one.key, one.index) for one in samples] == [("good", 0)] and len(left_out) == 1


def test_a_picture_without_labels_is_not_left_out_silently_nor_labels_without_a_picture(tmp_path: Path) -> None:
    folder = add(tmp_path, "val")
    save_picture(folder / "b.JPG")
    with pytest.raises(BadRecord, match=r"b\.json: no such file"):
        load_dataset(tmp_path, "val", "reasonseg")
    (folder / "b.JPG").rename(folder / "c.JPG")
    (folder / "b.json").write_text((folder / "a.json").read_text())
    with pytest.raises(BadRecord, match=r"b\.json: its picture .*b\.jpg is missing"):
        load_dataset(tmp_path, "val", "reasonseg")


def test_a_picture_spelled_otherwise_is_found(tmp_path: Path) -> None:
    folder = add(tmp_path, "val")
    (folder / "a.jpg").rename(folder / "a.JPEG")
    assert load_dataset(tmp_path, "val", "reasonseg")[0].image_path.name == "a.JPEG"


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    folder = add(tmp_path, "val")
    (folder / "a.json").write_text('{"text": ["x"], "is_sentence": true}')
    with pytest.raises(BadRecord, match=r"a\.json lacks the field 'shapes'"):
        load_dataset(tmp_path, "val", "reasonseg")


def test_a_missing_split_is_told_with_the_layout(tmp_path: Path) -> None:
    add(tmp_path, "val")
    with pytest.raises(
        UserError, match=r"(?s)ReasonSeg/test: not there; .*ReasonSeg/\{split\}/NAME\.json.*there is: val"
    ):
        load_dataset(tmp_path, "test", "reasonseg")


def test_published_numbers_are_of_the_clean_rules_but_for_smoothing() -> None:
    clean, official = (reasonseg.SPEC.scoring(name) for name in ("clean", "official"))
    assert clean.metrics == official.metrics == ("giou", "ciou") and clean.empty_iou == 1 and "1e-5" in official.note
