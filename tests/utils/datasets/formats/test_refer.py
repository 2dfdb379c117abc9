"""utils.datasets.formats.refer: refs as samples; what bad ones get."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.utils.datasets.formats.drawn_refer import BESIDE, SQUARE, annotation, ref, write_set
from utils.datasets.base import BadRecord, target_masks
from utils.datasets.formats.refer import ReferReader, load_refer, one_object
from utils.datasets.formats.refer_labels import Labels, ReferSet
from utils.datasets.reading import Reading
from utils.runtime.errors import UserError

PICTURES = "pictures"
DATA = ReferSet("roofs", ("all/refs.p",), "all/instances.json", PICTURES, ("train", "val"), "all/refs.p", "nowhere")
SPIKE = [5, 5, 15, 5, 5, 5]  # without area
HALF = float("nan")


def load(root: Path, split: str = "val", skip: bool = False, skipped: list[str] | None = None, **known: Any) -> list:
    data = ReferSet(**{**vars(DATA), **known})
    return load_refer(data, one_object, root, split, Reading(skip_bad_records=skip), skipped)


def write(root: Path, refs: list[Any], annotations: list[Any]) -> Path:
    return write_set(root, "all/refs.p", PICTURES, refs, annotations)


BAD = {
    "no object": (5, "ref 1 is a int, expected an object"),
    "no ref_id": (ref(2, "val", ref_id=None), r"ref 1 \(id None\): ref_id is None, expected a number"),
    "no split": (ref(2, None), r"ref 1 \(id 2\): split is None, expected a text"),
    "image_id": (ref(2, "val", image=99), "its image_id 99 is none of the images"),
    "a list as image_id": (ref(2, "val", image_id=[1]), r"image_id is \[1\], expected a number"),
    "ann_id": (ref(2, "val", ann=77), "its ann_id 77 is none of the annotations"),
    "a list as ann_id": (ref(2, "val", ann=[1]), r"its ann_id \[1\] is none"),
    "other picture": (ref(2, "val", image=2, ann=1), "its annotation 1 lies in image 1, but the ref names image 2"),
    "no sentences": (ref(2, "val", sentences=[]), "has no sentence"),
    "empty sentence": (ref(2, "val", " "), r"\(id 2\), sentence 0 is ' ', expected a text"),
    "no sentence": (ref(2, "val", sentences=["car"]), "sentence 0 is 'car', expected an object with sent_id and sent"),
    "no sent_id": (ref(2, "val", sentences=[{"sent": "car"}]), "expected an object with sent_id"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_ref_is_named_or_left_out(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    bad, message = BAD[name]
    root = write(tmp_path, [ref(1, "val"), bad], [annotation(1), annotation(2)])
    with pytest.raises(BadRecord, match=rf"refs\.p: .*{message}.*mend it, or pass --skip-bad-records"):
        load(root)
    skipped: list[str] = []
    assert [one.record_id for one in load(root, skip=True, skipped=skipped)] == ["1"]
    assert len(skipped) == 1 and "1 bad records skipped" in caplog.text


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], r"annotation 2: its segmentation is \[\], expected polygons or RLEs"),
        (None, "its segmentation is None"),
        ([[5, 5, 15, 5]], "annotation 2, polygon 0 has 2 points; a polygon needs 3"),
        ([SPIKE], "polygon 0 has no area"),
        ([[50, 5, 60, 5, 60, 15]], "lies wholly outside the frame of 40x30"),
        ([[5.1, 5.1, 5.3, 5.1, 5.3, 5.3]], "annotation 2 covers no pixel of the picture"),
        ([SQUARE, [5, 5, 15]], r"polygon 1 is \[5, 5, 15\], expected a list of numbers"),
        ([SQUARE, [5, 5, 15, HALF, 5, 15]], "polygon 1 has a coordinate that is no pixel's"),
        ([SQUARE, "abc"], "polygon 1 is 'abc', expected a list of numbers"),
        ([{"size": [30, 40], "counts": ""}], "annotation 2: its RLE has counts that do not fill 1200 pixels"),
        ([{"size": [30, 40], "counts": [1200]}], "annotation 2 covers no pixel"),
    ],
)
def test_an_object_without_pixels_or_with_broken_outlines_is_refused(
    tmp_path: Path, segmentation: Any, message: str
) -> None:
    broken = annotation(2, segmentation=[])
    broken["segmentation"] = segmentation
    root = write(tmp_path, [ref(1, "val"), ref(2, "val")], [annotation(1), broken])
    with pytest.raises(BadRecord, match=message):
        load(root)


def test_parts_of_an_object_that_draw_nothing_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # pycocotools takes a first polygon of two points for a box.
    root = write(tmp_path, [ref(1, "val", "a", "b")], [annotation(1, [[5, 5, 15, 5], BESIDE, SPIKE])])
    one, _ = load(root)
    assert target_masks(one, 30, 40).sum() == 50
    assert "2 polygons draw nothing and were left out of their objects, the first: ref 0 (id 1), annotation 1" in (
        caplog.text
    )


def test_one_flat_polygon_or_run_length_is_an_object_too(tmp_path: Path) -> None:
    rle = {"size": [30, 40], "counts": [0, 30, 1170]}
    root = write(tmp_path, [ref(1, "val"), ref(2, "val")], [annotation(1, SQUARE), annotation(2, rle)])
    assert [target_masks(one, 30, 40).sum() for one in load(root)] == [100, 30]


def test_a_bad_sentence_leaves_the_others_of_its_ref(tmp_path: Path) -> None:
    root = write(tmp_path, [ref(1, "val", "one", "", "three")], [annotation(1)])
    skipped: list[str] = []
    assert [(one.key, one.index) for one in load(root, skip=True, skipped=skipped)] == [("10", 0), ("12", 1)]
    assert skipped == ["ref 0 (id 1), sentence 1 is '', expected a text"]


def test_keys_do_not_depend_on_what_is_left_out(tmp_path: Path) -> None:
    refs = [ref(1, "val", "", "b"), ref(2, "val", "c"), ref(3, "train", "d")]
    refs[1]["sentences"][0]["sent_id"] = 10  # that of the sentence which is left out
    refs[2]["sentences"][0]["sent_id"] = 10  # another split's
    root = write(tmp_path, refs, [annotation(i) for i in (1, 2, 3)])
    assert [one.key for one in load(root, skip=True)] == ["11", "10#1"]
    assert [one.key for one in load(root, "train")] == ["10"]


def test_pictures_that_are_missing_or_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, [ref(1, "val")], [annotation(1)])
    (root / PICTURES / "COCO_train2014_000000000001.jpg").rename(root / "outside.jpg")
    with pytest.raises(BadRecord, match=r"image 1: its picture .*000001\.jpg is missing"):
        load(root)
    instances = root / "all" / "instances.json"
    published = instances.read_text()
    for name, message in (("../outside.jpg", "would lie outside"), ("", "file_name is ''"), (r"\ud800", "holds U")):
        instances.write_text(published.replace("COCO_train2014_000000000001.jpg", name))
        with pytest.raises(BadRecord, match=message):
            load(root)


def test_a_picture_of_another_size_is_counted_and_polygons_fit_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write(tmp_path, [ref(1, "val", "a")], [annotation(1)])
    file = root / "all" / "instances.json"
    file.write_text(file.read_text().replace('"height": 30, "width": 40', '"height": 60, "width": 80'))
    (one,) = load(root)
    assert one.size == (30, 40) and target_masks(one, 30, 40).sum() == 25
    assert "records have pictures of another size" in caplog.text


def test_a_full_split_of_another_size_is_told_and_a_part_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write(tmp_path, [ref(1, "val", "a", "b"), ref(2, "train")], [annotation(1), annotation(2)])
    with caplog.at_level(logging.WARNING):
        load(root, sentences={"val": 2, "train": 9})
        load(root, "train", sentences={"val": 2, "train": 9})
        assert not caplog.text
        load(root, sentences={"val": 3})
    assert "2 sentences in the split val of roofs, in the literature there are 3" in caplog.text


def test_an_unknown_or_empty_split_says_what_there_is(tmp_path: Path) -> None:
    root = write(tmp_path, [ref(1, "val"), ref(2, "val")], [annotation(1)])
    with pytest.raises(UserError, match="roofs has no split 'test'; it has train, val"):
        load(root, "test")
    with pytest.raises(UserError, match=r"refs\.p: no ref of the split train; there are: val \(2\)"):
        load(root, "train")


def test_a_reader_knows_names_of_categories() -> None:
    reader = ReferReader(DATA, Path(), Path(), Labels([], {}, {}, {3: {"name": "car"}, 4: {}}), Reading(), None)
    assert [reader.category({"category_id": one}) for one in (3, 4, 5, [3], None)] == ["car", None, None, None, None]
