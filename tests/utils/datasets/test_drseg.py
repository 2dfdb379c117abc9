"""DRSeg's labels into samples: what is read, how targets are drawn, and what bad input gets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.permissions import refused
from utils.datasets import reading
from utils.datasets.base import BadRecord, image_groups, target_masks
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

Make = Callable[..., Any]
SQUARE = [10, 10, 30, 10, 30, 20, 10, 20]  # 20 x 10 pixels
SECOND = [50, 30, 60, 30, 60, 40, 50, 40]  # 10 x 10 pixels


def segments(*polygons: list) -> list[dict]:
    return [{"segmentation": list(polygons)}]


# What is read


def test_a_record_becomes_a_sample(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("first"), make_record("second", altitude=60)])
    first, second = load_dataset(root, "test")
    assert first.image_path == root / "CODrone" / "DRtest" / "first.jpg" and first.image_path.is_file()
    assert (first.height, first.width, first.question) == (60, 80, "Which car is red?")
    assert first.answer == "<think>One is.</think><answer>That one.</answer>"
    assert (first.groups, first.dataset) == ({"reasoning_type": "attribute"}, "drseg")
    assert (second.record_id, second.groups["altitude"]) == ("second", 60)
    assert [first.index, second.index] == [0, 1]


def test_every_question_of_a_record_is_a_sample(make_drseg: Make, make_record: Make) -> None:
    questions = {"questions": [" Which? ", "Where?"], "answers": ["This.", None], "reasoning_types": ["scene", None]}
    samples = load_dataset(make_drseg([make_record("a", **questions), make_record("b")]), "test")
    assert [(one.record_id, one.question, one.answer, one.groups.get("reasoning_type")) for one in samples[:2]] == [
        ("a", "Which?", "This.", "scene"),
        ("a", "Where?", None, None),
    ]
    assert [one.index for one in samples] == [0, 1, 2]
    assert image_groups(samples) == [[0, 1], [2]]
    assert image_groups([samples[2], samples[0], samples[2]]) == [[0, 2], [1]]


def test_a_number_as_id_names_its_picture(make_drseg: Make, make_record: Make) -> None:
    (one,) = load_dataset(make_drseg([make_record(7)]), "test")
    assert (one.record_id, one.image_path.name) == ("7", "7.jpg")


def test_headers_are_read_once_a_picture(make_drseg: Make, make_record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_drseg([make_record("a"), make_record("b"), make_record("a")])
    for name in "ab":  # a header is enough: pixels that are missing are found when they are decoded
        path = root / "CODrone" / "DRtest" / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:1000])
    opened = []
    monkeypatch.setattr(
        reading, "read_header", lambda path, *to, real=reading.read_header: opened.append(path) or real(path, *to)
    )
    assert len(load_dataset(root, "test")) == 3
    assert [path.name for path in opened] == ["a.jpg", "b.jpg"]


# Targets


def test_polygons_are_united_unless_the_first_is_asked_for(make_drseg: Make, make_record: Make) -> None:
    overlapping = [20, 10, 40, 10, 40, 20, 20, 20]
    root = make_drseg([make_record(ann_list=segments(SQUARE, SECOND, overlapping))])
    (united,) = load_dataset(root, "test")
    (first,) = load_dataset(root, "test", polygons="first")
    assert target_masks(united, 60, 80).sum() == 30 * 10 + 10 * 10
    assert target_masks(first, 60, 80).sum() == 20 * 10
    with pytest.raises(UserError, match="'last'; known are union, first"):
        load_dataset(root, "test", polygons="last")


def test_polygons_are_scaled_to_a_picture_of_another_size(
    make_drseg: Make, make_record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    twice = {"questions": ["Which?", "Where?"], "answers": [None, None], "reasoning_types": [None, None]}
    records = [make_record("a"), make_record("b"), make_record("c", **twice)]
    with caplog.at_level(logging.WARNING):
        samples = load_dataset(make_drseg(records, sizes={"a": (120, 160), "c": (30, 40)}), "test")
    assert "2 records have pictures of another size" in caplog.text
    large = target_masks(samples[0], 120, 160)[0]
    assert large.sum() == 800 and large[20:40, 20:60].all()
    assert target_masks(samples[1], 60, 80).sum() == 200
    assert target_masks(samples[2], 30, 40).sum() == 50


def test_proportions_may_differ_by_rounding(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record(height=720, width=1280)], sizes={"a": (107, 191)})
    assert len(load_dataset(root, "test")) == 1


# What bad input gets


def test_a_missing_folder_or_split_says_what_there_is(make_drseg: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such data folder"):
        load_dataset(tmp_path / "nowhere", "test")
    make_drseg(split="train")
    root = make_drseg(split="val")
    with pytest.raises(UserError, match=r"DRSeg_test\.json: no such split; .* there are: train, val"):
        load_dataset(root, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": ', "not JSON"),
        ("\ufffd\udcff", "not JSON"),
        ('{"records": []}', "holds a dict, expected a list"),
        ("[]", "no usable record"),
    ],
)
def test_labels_that_are_no_list_in_json(make_drseg: Make, text: str, message: str) -> None:
    root = make_drseg()
    (root / "labels" / "DRSeg_test.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=rf"DRSeg_test\.json: {message}"):
        load_dataset(root, "test")


FIELDS = ("id", "height", "width", "ann_list", "questions", "answers", "reasoning_types")
TWO_QUESTIONS = {"questions": ["Which?", "Where?"], "answers": ["a", "b"], "reasoning_types": ["scene", "scene"]}
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"height": "60"}, "height is '60', expected whole pixels"),
    ({"width": True}, "width is True, expected whole pixels"),
    ({"width": 0}, "its frame is 0x60"),
    ({"questions": "Which?"}, "questions is 'Which\\?', expected a list"),
    ({"questions": [], "answers": [], "reasoning_types": []}, "has no question"),
    ({"questions": ["  "]}, "question 0 is '  ', expected a text"),
    ({**TWO_QUESTIONS, "answers": ["a"]}, "has 2 questions, but 1 answers"),
    ({**TWO_QUESTIONS, "reasoning_types": ["scene"]}, "has 2 questions, but 1 reasoning_types"),
    ({"answers": [5]}, "answer 0 is 5, expected a text or null"),
    ({"ann_list": []}, "has no target"),
    ({"ann_list": [{"bbox": [1, 2, 3, 4]}]}, "target 0 lacks the field 'segmentation'"),
    ({"ann_list": [{"segmentation": []}]}, "target 0: segmentation is empty"),
    ({"ann_list": [{"segmentation": {"counts": "a"}}]}, "segmentation is {'counts': 'a'}, expected polygons in a list"),
    ({"ann_list": segments(SQUARE) + segments(SQUARE, [1, 1, 5, 5])}, "target 1, polygon 1 has 2 points"),
    ({"ann_list": segments([1, 1, 5, 5, 9])}, "polygon 0 is .*, expected a list of numbers"),
    ({"ann_list": segments([1, 1, "5", 5, 9, 1])}, "polygon 0 is .*, expected a list of numbers"),
    ({"ann_list": segments([1, 1, float("nan"), 5, 9, 1])}, "a coordinate that is no pixel's"),
    ({"ann_list": segments([1, 1, 4e9, 5, 9, 1])}, "a coordinate that is no pixel's"),
    ({"ann_list": segments(SQUARE, [80, 5, 90, 5, 90, 15])}, "polygon 1 lies wholly outside the frame of 80x60"),
    ({"ann_list": segments([5, -9, 9, -9, 9, 0])}, "polygon 0 lies wholly outside the frame of 80x60"),
    ({"ann_list": segments([0.1, 0.3, 10.2, 20.5, 20.3, 40.7])}, "polygon 0 has no area"),
    ({"ann_list": segments([-30, 20, 20, -30, -30, -30])}, "target 0 covers no pixel"),  # beyond the corner
    ({"ann_list": segments([5, 5, 5.1, 5, 5.1, 5.1])}, "target 0 covers no pixel"),
    ({"id": "../DRtrain/b"}, "its picture would lie outside"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_a_bad_record_is_named(make_drseg: Make, make_record: Make, changes: dict, message: str) -> None:
    bad = {**make_record("bad"), **changes}
    root = make_drseg([make_record("good"), {**make_record("bad")}])
    file = root / "labels" / "DRSeg_test.json"
    file.write_text(json.dumps([make_record("good"), bad]))
    with pytest.raises(BadRecord, match=message) as caught:
        load_dataset(root, "test")
    assert f"{file}: record 1 (id {bad['id']!r})" in str(caught.value)
    assert "--skip-bad-records" in str(caught.value)
    assert [one.record_id for one in load_dataset(root, "test", skip_bad_records=True)] == ["good"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(make_drseg: Make, make_record: Make, field: str) -> None:
    record = make_record()
    del record[field]
    with pytest.raises(BadRecord, match=rf"record 0 \(id .*\) lacks the field '{field}'"):
        load_dataset(make_drseg([record]), "test")


def test_a_record_that_is_no_object(make_drseg: Make) -> None:
    with pytest.raises(BadRecord, match="record 0 is a str, expected an object"):
        load_dataset(make_drseg(["a"]), "test")


def test_a_picture_must_be_there_and_be_one(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("a")], sizes={"a": None})
    with pytest.raises(BadRecord, match=r"record 0 \(id 'a'\): its picture .*a\.jpg is missing"):
        load_dataset(root, "test")
    (root / "CODrone" / "DRtest" / "a.jpg").write_text("no picture")
    with pytest.raises(BadRecord, match=r"record 0 \(id 'a'\): .*a\.jpg: damaged or no picture"):
        load_dataset(root, "test")


def test_a_picture_must_have_the_labels_proportions(make_drseg: Make, make_record: Make) -> None:
    with pytest.raises(BadRecord, match=r"a\.jpg is 80x59 pixels, but the labels were drawn on 80x60") as caught:
        load_dataset(make_drseg(sizes={"a": (59, 80)}), "test")
    assert "orientation" not in str(caught.value)
    with pytest.raises(BadRecord, match=r"is 60x80 pixels, .* 80x60; .*orientation tag"):
        load_dataset(make_drseg(sizes={"a": (80, 60)}), "test")


def test_skipped_records_are_counted_and_listed(
    make_drseg: Make, make_record: Make, caplog: pytest.LogCaptureFixture
) -> None:
    half_bad = {"questions": ["Which?", ""], "answers": [None, None], "reasoning_types": [None, None]}
    records = [make_record("a"), make_record("b", **half_bad), make_record("c", ann_list=[]), make_record("d")]
    with caplog.at_level(logging.WARNING):
        samples = load_dataset(make_drseg(records), "test", skip_bad_records=True)
    assert [(one.record_id, one.index) for one in samples] == [("a", 0), ("d", 1)]  # nothing of b is left
    assert "2 bad records skipped" in caplog.text
    assert "record 1 (id 'b'): question 1" in caplog.text and "record 2 (id 'c') has no target" in caplog.text


def test_a_picture_that_is_cut_off_is_skipped_too(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("a"), make_record("b")])
    broken = root / "CODrone/DRtest/a.jpg"
    broken.write_bytes(broken.read_bytes()[:-2000])
    assert len(load_dataset(root, "test")) == 2  # a look at the headers does not tell
    assert [one.record_id for one in load_dataset(root, "test", skip_bad_records=True)] == ["b"]


def test_skipping_all_records_is_an_error(make_drseg: Make, make_record: Make) -> None:
    with pytest.raises(UserError, match="no usable record"):
        load_dataset(make_drseg([make_record(ann_list=[])]), "test", skip_bad_records=True)


# What a record may have


@pytest.mark.parametrize(("altitude", "group"), [(60, 60), (19.47, 19), (-0.6, -1), (None, None)])
def test_an_altitude_is_grouped_in_whole_metres(
    make_drseg: Make, make_record: Make, caplog: pytest.LogCaptureFixture, altitude: float | None, group: int | None
) -> None:
    (one,) = load_dataset(make_drseg([make_record(altitude=altitude)]), "test")
    assert one.groups.get("altitude") == group and not caplog.text


@pytest.mark.parametrize("altitude", ["low", "+19.47", float("nan"), float("inf"), 10**400, True, [30], {}])
def test_an_altitude_that_is_none_costs_no_record(
    make_drseg: Make, make_record: Make, caplog: pytest.LogCaptureFixture, altitude: Any
) -> None:
    records = [make_record("a", altitude=30), make_record("b", altitude=altitude), make_record("c", altitude=altitude)]
    with caplog.at_level(logging.WARNING):
        samples = load_dataset(make_drseg(records), "test")
    assert [one.groups.get("altitude") for one in samples] == [30, None, None]
    assert "2 altitudes that are no number of metres, the first " in caplog.text and "(id 'b')" in caplog.text


@pytest.mark.parametrize("kind", ["size", 7, ["scene"], {}, float("nan")])
def test_a_reasoning_type_that_is_not_known_costs_no_record(
    make_drseg: Make, make_record: Make, caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    records = [make_record("a"), make_record("b", reasoning_types=[kind])]
    with caplog.at_level(logging.WARNING):
        samples = load_dataset(make_drseg(records), "test")
    assert [one.groups.get("reasoning_type") for one in samples] == ["attribute", None]
    assert "1 reasoning types that are not known, the first " in caplog.text and "record 1 (id 'b')" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_labels_are_read_in_any_encoding_of_unicode(make_drseg: Make, make_record: Make, encoding: str) -> None:
    root = make_drseg([make_record(questions=["Wo ist die Straße?"])])
    file = root / "labels/DRSeg_test.json"
    file.write_bytes(json.dumps(json.loads(file.read_text()), ensure_ascii=False).encode(encoding))
    assert load_dataset(root, "test")[0].question == "Wo ist die Straße?"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ann_list": [{"segmentation": [10, 10, "HUGE", 10, 30, 30]}]}, "a coordinate that is no pixel's"),
        ({"height": "HUGE"}, "height is inf, expected whole pixels"),
        ({"width": 10**400}, r"its frame is 10+\.\.\.x60 pixels"),
        ({"id": "\udce9"}, r"its id holds U\+DCE9"),
        ({"id": 10**400}, "File name too long|is missing"),
    ],
)
def test_absurd_numbers_and_ids_are_a_records_fault(
    make_drseg: Make, make_record: Make, changes: dict, message: str
) -> None:
    root = make_drseg([make_record("good"), make_record("bad")])
    file = root / "labels/DRSeg_test.json"
    file.write_text(json.dumps([make_record("good"), make_record("bad", **changes)]).replace('"HUGE"', "9" * 5000))
    with pytest.raises(BadRecord, match=message) as told:
        load_dataset(root, "test")
    assert "record 1" in str(told.value) and len(str(told.value)) < 2000
    assert [one.record_id for one in load_dataset(root, "test", skip_bad_records=True)] == ["good"]


def test_a_sample_knows_where_it_comes_from(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("a"), make_record("b")])
    assert load_dataset(root, "test")[1].name == f"{root}/labels/DRSeg_test.json: record 1 (id 'b')"


@pytest.mark.parametrize("name", ["labels/DRSeg_test.json", "labels", "CODrone", "CODrone/DRtest/a.jpg", ""])
def test_what_may_not_be_read_is_told_as_that(make_drseg: Callable[..., Path], name: str) -> None:
    root = make_drseg()
    with refused(root / name), pytest.raises(UserError, match="permission denied") as told:
        load_dataset(root, "test")
    assert str(root / name) in str(told.value)
    assert not any(word in str(told.value) for word in ("damaged", "fetch", "missing", "no such"))


# Orientation tags


def tag(root: Path, orientation: int, name: str = "a") -> Path:
    path = root / "CODrone" / "DRtest" / f"{name}.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as picture:
        picture.save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize(
    ("orientation", "frame", "picture", "fits"),
    [
        (2, (60, 80), (60, 80), "stored or turned"),
        (3, (60, 80), (60, 80), "stored or turned"),
        (4, (60, 80), (60, 80), "stored or turned"),
        (6, (64, 64), (64, 64), "stored or turned"),
        (6, (60, 80), (80, 60), "only when turned"),
        (8, (60, 80), (160, 120), "only when turned"),
    ],
)
def test_a_tag_that_leaves_the_labels_place_open_is_refused(
    make_drseg: Make, make_record: Make, orientation: int, frame: tuple, picture: tuple, fits: str
) -> None:
    records = [make_record(name, height=frame[0], width=frame[1]) for name in ("a", "b")]
    root = make_drseg(records, sizes={"a": picture})
    path = tag(root, orientation)
    with pytest.raises(
        BadRecord, match=f"{path} has the orientation tag {orientation}, .*{fits}; pass --orientation apply"
    ):
        load_dataset(root, "test")
    assert [one.record_id for one in load_dataset(root, "test", skip_bad_records=True)] == ["b"]
    applied = load_dataset(root, "test", orientation="apply")
    assert [one.upright for one in applied] == [True, True]


def test_labels_that_fit_the_stored_pixels_alone_are_read_on_them(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("a"), make_record("b")])
    tag(root, 6)
    for orientation in ("check", "stored"):
        assert [one.upright for one in load_dataset(root, "test", orientation=orientation)] == [False, True]
    with pytest.raises(BadRecord, match=r"is 60x80 pixels, but .* 80x60; .*orientation tag is 6"):
        load_dataset(root, "test", orientation="apply")
    with pytest.raises(UserError, match="orientation is 'up'; known are check, apply, stored"):
        load_dataset(root, "test", orientation="up")


def test_a_tag_that_asks_for_nothing_matters_to_nobody(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("a")])
    tag(root, 1)
    assert [one.upright for one in load_dataset(root, "test")] == [True]


def test_a_picture_without_a_sure_scale_is_a_bad_record(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("a"), make_record("b")])
    thermal = np.linspace(28000, 31000, 4800).reshape(60, 80).astype(np.uint16)
    Image.fromarray(thermal).save(root / "CODrone/DRtest/a.jpg", "PNG")  # named as the layout names it
    with pytest.raises(BadRecord, match=r"record 0 \(id 'a'\): .*a\.jpg: its pixels have more than 8 bits a channel"):
        load_dataset(root, "test")
    assert [one.record_id for one in load_dataset(root, "test", skip_bad_records=True)] == ["b"]


# Polygons that cross themselves


@pytest.mark.parametrize(
    ("polygon", "area"),
    [
        ([10, 10, 30, 30, 30, 10, 10, 30], 200),  # whose signed area is 0
        ([10, 10, 30, 30, 30, 12, 10, 30], 190),
        ([10, 10, 20, 20, 30, 30, 30, 10, 20, 20, 10, 30], 200),
    ],
)
def test_polygons_that_cross_themselves_are_drawn_and_counted(
    make_drseg: Make, make_record: Make, caplog: pytest.LogCaptureFixture, polygon: list, area: int
) -> None:
    records = [make_record("a"), make_record("b", ann_list=segments(SQUARE) + segments(SECOND, polygon))]
    with caplog.at_level(logging.WARNING):
        plain, crossing = load_dataset(make_drseg(records), "test")
    assert "1 polygons cross themselves, the first record 1 (id 'b'), target 1, polygon 1;" in caplog.text
    assert target_masks(crossing, 60, 80)[1].sum() == 100 + area
    caplog.clear()
    load_dataset(make_drseg(records[:1]), "test")
    assert not caplog.text
