"""utils.datasets.formats.muse, on small folders in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from tests.utils.datasets.formats.drawn_pictures import boxed, save_picture
from utils.datasets.base import BadRecord, target_masks
from utils.datasets.checks import checked_polygon
from utils.datasets.formats import muse
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

SQUARE, SECOND = [3, 4, 9, 4, 9, 10, 3, 10], [20, 12, 30, 12, 30, 22, 20, 22]
BOXES = boxed((3, 4, 9, 10)), boxed((20, 12, 30, 22))
COMPRESSED = {"size": [30, 40], "counts": coco.encode(np.asfortranarray(BOXES[0]))["counts"].decode()}
LENGTHS = {
    "size": [30, 40],
    "counts": [int(n) for n in np.diff(np.flatnonzero(np.diff(np.r_[2, BOXES[0].T.ravel(), 2])))],
}
URL = "http://images.cocodataset.org/{}/{:012}.jpg"


def thing(segmentation: Any, **fields: Any) -> dict[str, Any]:
    return {"segmentation": segmentation, "bbox": [3, 4, 6, 6], "category_name": "cup", **fields}


def record(**fields: Any) -> dict[str, Any]:
    """A record with one question for two objects; keywords replace its fields."""
    return {
        "height": 30,
        "width": 40,
        "coco_url": URL.format("val2017", 5),
        "ann_list": [thing([SQUARE]), thing([SECOND])],
        "questions": ["What can hold tea?"],
        "answers": [[thing([SQUARE]), thing([SECOND])]],
        **fields,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the pictures that the records name, and no labels."""
    for folder, name in (
        ("train2014", "COCO_train2014_000000000007.jpg"),
        ("train2017", "000000000006.jpg"),
        ("val2017", "000000000005.jpg"),
    ):
        save_picture(tmp_path / "muse" / folder / name)
    return tmp_path / "muse"


def write(root: Path, records: Any, split: str = "val") -> Path:
    (root / f"muse_{split}.json").write_text(json.dumps(records))
    return root


@pytest.mark.parametrize("split", muse.SPEC.splits)
def test_every_question_is_a_sample_with_its_objects_in_order(root: Path, split: str) -> None:
    asked = record(questions=["Both?", "One?"], answers=[[thing([SECOND]), thing([SQUARE])], [thing([SQUARE])]])
    both, one = load_dataset(write(root, [asked], split), split, "muse")
    assert (both.key, one.key, one.question, one.answer) == ("000000000005#0", "000000000005#1", "One?", None)
    assert (target_masks(both, 30, 40) == np.stack(BOXES[::-1])).all()
    assert (target_masks(one, 30, 40) == BOXES[0]).all()
    assert one.targets[0] is both.targets[1] and (both.index, one.index) == (0, 1) and one.size == (30, 40)


def test_keys_do_not_depend_on_what_is_left_out(root: Path) -> None:
    records = [record(questions=["1?", "2?"], answers=[[thing([SQUARE])], []]), record(), record(questions=["3?"])]
    samples = load_dataset(write(root, records), "val", "muse", skip_bad_records=True)
    assert [sample.key for sample in samples] == ["000000000005#2", "000000000005#3"]
    assert load_dataset(write(root, [record()]), "val", "muse")[0].key == "000000000005"


def test_pictures_are_found_by_file_name_or_url(root: Path) -> None:
    old = record(file_name="COCO_train2014_000000000007.jpg")
    samples = load_dataset(write(root, [old, record(coco_url=URL.format("train2017", 6)), record()]), "val", "muse")
    assert [sample.image_path.parent.name for sample in samples] == ["train2014", "train2017", "val2017"]


@pytest.mark.parametrize("place", ["coco", "refer_seg/images/mscoco/images"])
def test_pictures_may_lie_beside_the_labels(root: Path, place: str) -> None:
    (root.parent / place).mkdir(parents=True)
    (root / "val2017").rename(root.parent / place / "val2017")
    (sample,) = load_dataset(write(root, [record()]), "val", "muse")
    assert sample.image_path.samefile(root.parent / place / "val2017" / "000000000005.jpg")


@pytest.mark.parametrize("segmentation", [SQUARE, [SQUARE], COMPRESSED, LENGTHS], ids=str)
def test_every_form_of_a_mask_is_kept_as_text(root: Path, segmentation: Any) -> None:
    (sample,) = load_dataset(write(root, [record(answers=[[thing(segmentation)]])]), "val", "muse")
    assert sample.targets == (COMPRESSED,)


def test_polygons_that_overlap_stay_polygons_for_the_published_scoring(root: Path) -> None:
    apart, over = [SQUARE, SECOND], [SQUARE, [6, 4, 15, 4, 15, 10, 6, 10]]
    (sample,) = load_dataset(write(root, [record(answers=[[thing(apart), thing(over)]])]), "val", "muse")
    assert isinstance(sample.targets[0], dict) and isinstance(sample.targets[1], tuple)
    assert (target_masks(sample, 30, 40) == np.stack([BOXES[0] | BOXES[1], boxed((3, 4, 15, 10))])).all()
    assert muse.SPEC.scoring("official").covered_once


@pytest.mark.parametrize(
    "polygon",
    [
        SQUARE,
        [0, 0, 40, 0, 40.0, 30, 0, 30],  # the whole frame
        [-9, 4, 9, 4, 9, 10, -9, 10],  # overhangs
        [3, 4, 9, 10, 9, 4, 3, 10],  # crosses itself, its parts cancelling each other
        [3, 4, 9, 4, 6, 4],
        [3, 4, 9, 4, 9, 10, True, 10],
        [3, 4, 9, 4, 9, 10, float("nan"), 10],
        [3, 4, 9, 4, 9, 10, 3],
        [3, 4, 9, 4, 9, 10, "3", 10],
        [50, 4, 59, 4, 59, 10],
        [3, 4, 9, 4],
        [[3, 4], [9, 4], [9, 10]],
        "345678",
    ],
    ids=str,
)
def test_the_quick_check_of_polygons_lets_nothing_pass_that_the_full_one_refuses(polygon: Any) -> None:
    try:
        accepted = bool(checked_polygon("a", polygon, (30, 40)))
    except BadRecord:
        accepted = False
    assert muse.is_plain_polygon(polygon, (30, 40)) <= accepted
    assert muse.is_plain_polygon(SQUARE, (30, 40))


def test_a_polygon_that_overhangs_is_cut_off(root: Path) -> None:
    (sample,) = load_dataset(write(root, [record(answers=[[thing([[-9, 4, 9, 4, 9, 10, -9, 10]])]])]), "val", "muse")
    assert (target_masks(sample, 30, 40)[0] == boxed((0, 4, 9, 10))).all()


def test_answers_in_words_lose_the_marks_of_masks(root: Path) -> None:
    words = record(
        questions=["1?", "2?"],
        answers=[[thing([SQUARE])], [thing([SQUARE])]],
        text_answers=["The cup {seg} and the mug{seg}.", None],
    )
    samples = load_dataset(write(root, [words]), "val", "muse")
    assert [sample.answer for sample in samples] == ["The cup and the mug.", None]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"coco_url": None}, r" names no picture of COCO by file_name or coco_url: None"),
        ({"coco_url": "http://x/test2017/5.jpg"}, r"names no picture of COCO .*test2017"),
        ({"file_name": "../5.jpg"}, r"names no picture of COCO .*'\.\./5\.jpg'"),
        ({"coco_url": URL.format("val2017", 9)}, r" \(000000000009\.jpg\): its picture .* is missing"),
        ({"height": 40, "width": 30}, r"is 40x30 pixels, but the labels were drawn on 30x40"),
        ({"height": "30"}, r"height is '30', expected whole pixels"),
        ({"questions": None}, r"questions is None, expected a list"),
        ({"questions": [], "answers": []}, r"has no question"),
        ({"questions": ["1?", "2?"]}, r"questions, answers and text_answers are of different length"),
        ({"text_answers": ["1", "2"]}, r"questions, answers and text_answers are of different length"),
        ({"text_answers": [1]}, r"text answer 0 is 1, expected a text or null"),
        ({"questions": [" "]}, r"question 0 is ' ', expected a text"),
        ({"answers": [[]]}, r"answer 0 is \[\], expected a list of objects"),
        ({"answers": [[5]]}, r"question 0, target 0: segmentation is None, expected polygons or run lengths"),
        ({"answers": [[thing([])]]}, r"segmentation is \[\], expected polygons or run lengths"),
        ({"answers": [[thing([SQUARE, [1, 2, 3, 4]])]]}, r"target 0, polygon 1 has 2 points; a polygon needs 3"),
        ({"answers": [[thing({"size": [30, 40], "counts": [1]})]]}, r"runs that do not add up to 1200 pixels"),
        ({"answers": [[thing({"size": [30, 40], "counts": [1200]})]]}, r"target 0 covers no pixel"),
    ],
)
def test_bad_records_are_named_or_skipped(root: Path, fields: dict[str, Any], told: str) -> None:
    write(root, [record(**fields), record()])
    with pytest.raises(BadRecord, match=rf"muse_val\.json: record 0.*{told}"):
        load_dataset(root, "val", "muse")
    left_out: list[str] = []
    samples = load_dataset(root, "val", "muse", skip_bad_records=True, skipped=left_out)
    assert [one.index for one in samples] == [0] and len(left_out) == 1


def test_a_record_that_is_no_object_is_bad(root: Path) -> None:
    with pytest.raises(BadRecord, match=r"record 0 names no picture of COCO by file_name or coco_url: 5"):
        load_dataset(write(root, [5]), "val", "muse")


def test_a_missing_part_is_told_with_the_layout(root: Path) -> None:
    with pytest.raises(UserError, match=r"muse_test_less\.json: not there; (.|\n)*\.\./coco(.|\n)*PixelLM"):
        load_dataset(write(root, [record()]), "test_less", "muse")
    (root / "val2017").rename(root / "gone")
    with pytest.raises(UserError, match=r"muse/val2017: not there; (.|\n)*there is: gone, muse_val"):
        load_dataset(root, "val", "muse")
    with pytest.raises(UserError, match=r"muse_val\.json: holds a dict, expected a list of records"):
        load_dataset(write(root, {}), "val", "muse")


def test_both_rules_match_by_overlap() -> None:
    assert muse.SPEC.matching == muse.SPEC.scoring("official").matching == "hungarian"
    assert muse.SPEC.scoring("official").metrics == ("giou_by_picture", "ciou")
