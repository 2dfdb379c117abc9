"""utils.datasets.formats.vrsbench: sentences answered by boxes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco

from model.masks import encode_mask
from tests.utils.datasets.formats.drawn_files import draw_picture, write_labels
from utils.datasets.base import BadRecord, target_masks
from utils.datasets.registry import dataset_spec, load_dataset
from utils.evaluation.canvas import on_canvas
from utils.runtime.errors import UserError

NAME = "vrsbench"
CORNERS = [0.25, 0.2, 0.5, 0.1, 0.625, 0.4, 0.375, 0.5]  # a turned box; upright 0.25 0.1 0.625 0.5


def item(number: int = 0, **fields: Any) -> dict[str, Any]:
    known = {"image_id": "P0003_0002.png", "question": "The small ship.", "ground_truth": "{<25><10><62><50>}"}
    known |= {"dataset": "RSBench", "question_id": number, "type": "ref", "unique": True, "obj_corner": CORNERS}
    return {**known, "obj_cls": "ship", "obj_ids": [0], "size_group": "small", **fields}


def root_of(folder: Path, *items: Any) -> Path:
    draw_picture(folder / "Images_val" / "P0003_0002.png")
    write_labels(folder / "VRSBench_EVAL_referring.json", list(items))
    return folder


def test_the_box_is_that_of_the_corners_and_is_drawn_in_whole(tmp_path: Path) -> None:
    root = root_of(tmp_path, item(), item(7, unique=False, size_group="", question="Another."))
    first, second = load_dataset(root, "val", "vrsbench")
    assert (first.question, first.key, first.answer) == ("The small ship.", "0", None)
    assert first.targets == (((10.0, 3.0, 25.0, 3.0, 25.0, 15.0, 10.0, 15.0),),)  # of 40x30; 62 hundredths were 24.8
    mask = target_masks(first, 30, 40)[0]
    assert mask.sum() == 15 * 12 and mask[3:15, 10:25].all()
    assert first.groups == {"unique": "unique", "size_group": "small"}
    assert (second.key, second.index, second.groups) == ("7", 1, {"unique": "non-unique"})


def test_corners_are_cut_off_at_the_rim_and_down_to_hundredths(tmp_path: Path) -> None:
    corners = [-0.1, 0.1, 0.629, 0.1, 0.629, 1.2, -0.1, 1.2]  # 62 hundredths, not 63
    (one,) = load_dataset(root_of(tmp_path, item(ground_truth="{<0><10><62><100>}", obj_corner=corners)), "val", NAME)
    assert one.targets[0][0][:6] == (0, 3, 25, 3, 25, 30)  # 25.2 in whole pixels


@pytest.mark.parametrize("side", [512, 800])
def test_the_official_grid_has_the_published_hundredths_which_are_cut_down_not_rounded(
    tmp_path: Path, side: int
) -> None:
    shares = [(i + j) / 100 for i in range(0, 100, 7) for j in (0, 0.3, 0.5, 0.51, 0.99)]
    boxes = [(x, y, min(x + wide, 1), 1.0) for x, y in zip(shares, shares[::-1], strict=True) for wide in (0.004, 0.3)]
    items, published = [], []
    for number, (left, top, right, bottom) in enumerate(boxes):
        published.append([int(100 * share) for share in (left, top, right, bottom)])
        truth = "{" + "".join(f"<{one}>" for one in published[-1]) + "}"
        corners = [left, top, right, top, right, bottom, left, bottom]
        items.append(item(number, ground_truth=truth, obj_corner=corners))
    root = root_of(tmp_path, *items)
    draw_picture(root / "Images_val" / "P0003_0002.png", side, side)
    samples = load_dataset(root, "val", NAME)
    drawn = on_canvas([encode_mask(target_masks(one, side, side)[0]) for one in samples], "box_grid")
    found = [coco.toBbox(one).astype(int).tolist() for one in drawn]
    assert [[x, y, x + w - 1, y + h - 1] for x, y, w, h in found] == published
    fine = [[share * side for share in one] for one in boxes]
    told = [(one.targets[0][0][0], one.targets[0][0][1]) for one in samples]
    assert max(abs(a - b) for one, two in zip(told, fine, strict=True) for a, b in zip(one, two[:2], strict=True)) < (
        side / 200 + 2
    )  # half a hundredth, and a pixel each for rounding and for a box without any


def test_where_corners_are_of_another_box_ground_truth_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = root_of(tmp_path, item(ground_truth="{<50><10><75><50>}"))
    with caplog.at_level(logging.WARNING):
        (one,) = load_dataset(root, "val", "vrsbench")
    assert one.targets[0][0][:4] == (20.0, 3.0, 30.0, 3.0)
    assert "1 boxes are not those of their corners" in caplog.text


def test_a_box_without_area_is_widened_to_a_pixel_within_the_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = [0.9, -0.1, 1.1, -0.1, 1.1, 0, 0.9, 0]  # on the rim above
    root = root_of(tmp_path, item(ground_truth="{<90><0><100><0>}", obj_corner=flat))
    with caplog.at_level(logging.WARNING):
        (one,) = load_dataset(root, "val", "vrsbench")
    mask = target_masks(one, 30, 40)[0]
    assert mask.sum() == 4 and mask[0, 36:].all()
    assert "1 boxes are narrower than a pixel" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ground_truth": "{<25><10><162><50>}"}, "ground_truth is '{<25>.*, expected"),
        ({"ground_truth": "25 10 62 50"}, "ground_truth is '25 10 62 50', expected"),
        ({"ground_truth": "{<62><10><25><50>}"}, "ground_truth is .*, expected"),
        ({"obj_corner": [10, 20, 30]}, r"obj_corner is \[10, 20, 30\], expected 4 corners"),
        ({"image_id": "../a.png"}, "image_id is '../a.png', expected the name of a picture"),
        ({"image_id": "b.png"}, "its picture .*b.png is missing"),
        ({"question": " "}, "its sentence is ' ', expected a text"),
    ],
)
def test_a_bad_item_is_named_or_skipped(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    root = root_of(tmp_path, item(), item(1, **fields))
    with pytest.raises(BadRecord, match=rf"item 1 \(question_id 1\).*{message}"):
        load_dataset(root, "val", "vrsbench")
    skipped: list[str] = []
    assert len(load_dataset(root, "val", "vrsbench", skip_bad_records=True, skipped=skipped)) == 1
    assert skipped[0].startswith("item 1")


def test_an_item_without_a_number_is_bad(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="item 0 is 'x', expected an object with a question_id"):
        load_dataset(root_of(tmp_path, "x"), "val", "vrsbench")


def test_training_asks_for_every_object_that_has_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_picture(tmp_path / "Images_train" / "P1.png")
    objects = [
        {"obj_id": 0, "referring_sentence": "The ship.", "obj_corner": CORNERS, "is_unique": True, "obj_size": "small"},
        {"obj_id": 1, "referring_sentence": "", "obj_corner": CORNERS},
        {"obj_id": 2, "referring_sentence": "The port.", "obj_coord": [0.5, 0, 1.2, 1], "is_unique": False},
    ]
    annotation = {"image": "P1.png", "caption": "A port.", "objects": objects, "qa_pairs": []}
    write_labels(tmp_path / "Annotations_train" / "P1.json", annotation)
    with caplog.at_level(logging.WARNING):
        first, second = load_dataset(tmp_path, "train", "vrsbench")
    assert [first.key, second.key] == ["P1#0", "P1#2"] and first.record_id == "P1"
    assert second.targets[0][0] == (20.0, 0.0, 40.0, 0.0, 40.0, 30.0, 20.0, 30.0)
    assert first.groups == {"unique": "unique", "size_group": "small"} and second.groups == {"unique": "non-unique"}
    assert "1 objects have no sentence" in caplog.text
    write_labels(
        tmp_path / "Annotations_train" / "P2.json", {**annotation, "objects": [{**objects[2], "obj_coord": 1}]}
    )
    with pytest.raises(BadRecord, match="P2.json, object 0: obj_coord is 1, expected x1, y1, x2, y2"):
        load_dataset(tmp_path, "train", "vrsbench")


@pytest.mark.parametrize(("split", "wanted"), [("val", "VRSBench_EVAL_referring.json"), ("train", "Annotations_train")])
def test_missing_labels_are_told_with_the_layout(tmp_path: Path, split: str, wanted: str) -> None:
    draw_picture(tmp_path / "Images_val" / "P0003_0002.png")
    with pytest.raises(UserError, match=f"{wanted}.*: not there; expected is\n.*\n.*\n.*\n.*\nIn .*: Images_val. The"):
        load_dataset(tmp_path, split, "vrsbench")


def test_the_official_rules_compare_boxes_in_hundredths() -> None:
    spec = dataset_spec("vrsbench")
    assert (spec.scoring().canvas, spec.scoring().metrics) == ("box", ("pr50", "pr70", "giou"))
    assert (spec.scoring("official").canvas, spec.scoring("official").metrics) == ("box_grid", ("pr50", "pr70"))
    assert spec.task == "segmentation"
