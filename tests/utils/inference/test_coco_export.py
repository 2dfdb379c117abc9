"""COCO files of answers: what pycocotools and this project's own reader find in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from model.answering import BROKEN, NO_SEG, OK
from model.segmentation import Segmentation
from utils.datasets.base import target_masks
from utils.datasets.registry import load_dataset
from utils.inference.coco_export import LONGEST_NAME, category_names, coco_instances, write_coco
from utils.inference.results import answer_record, json_line
from utils.runtime.errors import UserError

HEIGHT, WIDTH = 50, 70


def line(picture: Path | str, question: str, masks: list[np.ndarray], status: str = OK) -> dict[str, Any]:
    """As infer.py writes and reads it back."""
    stacked = np.stack(masks) if masks else np.zeros((0, HEIGHT, WIDTH), bool)
    scores = np.linspace(0.9, 0.5, len(masks), dtype=np.float32)
    answer = Segmentation(stacked, scores, np.zeros((len(masks), 4), np.float32), "[SEG]", 0.5, status, question)
    return json.loads(json_line({"picture": str(picture), **answer_record(answer)}))


def box_mask(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


RING = box_mask(5, 5, 30, 40) & ~box_mask(10, 10, 20, 20) & ~box_mask(22, 25, 24, 38)
PARTS = box_mask(0, 0, 2, 2) | box_mask(2, 2, 4, 4) | box_mask(30, 30, 50, 70) | box_mask(10, 60, 11, 61)
NOISE = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5
EMPTY = np.zeros((HEIGHT, WIDTH), bool)


def read_back(path: Path, lines: list[dict[str, Any]], tolerance: float = 0.0) -> COCO:
    write_coco(path, lines, tolerance)
    return COCO(str(path))


def test_masks_come_back_exactly(tmp_path: Path) -> None:
    masks = [RING, PARTS, NOISE, box_mask(0, 0, HEIGHT, WIDTH), box_mask(49, 69, 50, 70)]
    table = read_back(tmp_path / "coco.json", [line("a.jpg", "Which?", masks)])
    found = table.loadAnns(table.getAnnIds(imgIds=[1]))
    assert [one["id"] for one in found] == [1, 2, 3, 4, 5]
    for one, mask in zip(found, masks, strict=True):
        assert (table.annToMask(one) == mask).all()
        assert one["area"] == mask.sum() and one["iscrowd"] == 0 and one["category_id"] == 1
        rows, columns = np.nonzero(mask)
        assert one["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert all(len(polygon) >= 8 and len(polygon) % 2 == 0 for polygon in one["segmentation"])
    assert np.allclose([one["score"] for one in found], np.linspace(0.9, 0.5, 5))
    assert sorted(set(found[1]["segmentation"][0])) == [30, 50, 70]  # of several parts the largest comes first


def test_a_tolerance_takes_corners_away(tmp_path: Path) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = (x - 35) ** 2 + (y - 25) ** 2 < 400
    exact, fewer = (coco_instances([line("a.jpg", "Which?", [disc])], each)["annotations"][0] for each in (0, 1.5))
    assert len(fewer["segmentation"][0]) < len(exact["segmentation"][0]) / 2


def test_pictures_questions_and_answers(tmp_path: Path) -> None:
    lines = [
        line("photos/a.jpg", "Which car?", [RING]),
        line("photos/a.jpg", "Which roof?", [PARTS, EMPTY, RING]),
        line("photos/b.jpg", "Which car?", [], NO_SEG),
        line("photos/c.jpg", "Which tree?", [], BROKEN),
        line("./photos//a.jpg", "Which car?", [PARTS, RING]),  # asked again
        line(Path("photos/a.jpg").absolute(), "Which pond?", [EMPTY]),
    ]
    table = read_back(tmp_path / "coco.json", lines)
    assert [table.cats[i]["name"] for i in (1, 2, 3, 4)] == ["Which car?", "Which roof?", "Which pond?", "Which tree?"]
    assert [(one["id"], one["file_name"], one["width"], one["height"]) for one in table.dataset["images"]] == [
        (1, "a.jpg", WIDTH, HEIGHT), (2, "b.jpg", WIDTH, HEIGHT), (3, "c.jpg", WIDTH, HEIGHT)]  # fmt: skip
    found = [(one["id"], one["image_id"], one["category_id"]) for one in table.dataset["annotations"]]
    assert found == [(1, 1, 1), (2, 1, 1), (3, 1, 2), (4, 1, 2)]
    assert [(table.annToMask(table.anns[i]) == mask).all() for i, mask in ((1, PARTS), (2, RING))] == [True, True]
    assert [one["questions"] for one in table.dataset["images"]] == [
        [
            {"question": "Which car?", "annotation_ids": [1, 2]},
            {"question": "Which roof?", "annotation_ids": [3, 4]},
        ],
        [{"question": "Which car?", "annotation_ids": [], "no_target": True}],
        [],
    ]
    assert table.dataset["licenses"] == [] and table.dataset["info"]["description"]


def test_no_line_gives_an_empty_file() -> None:
    table = coco_instances([])
    assert table["images"] == table["annotations"] == table["categories"] == []


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        (["x/1.jpg", "y/2.jpg"], ["1.jpg", "2.jpg"]),
        (["x/1.jpg", "y/1.jpg", "y/z/2.jpg"], ["x/1.jpg", "y/1.jpg", "y/z/2.jpg"]),
        (["x/1.jpg", "y/1.png"], ["x/1.jpg", "y/1.png"]),  # CVAT looks at no ending
        (["x/1.jpg", "/elsewhere/2.jpg"], ["1.jpg", "2.jpg"]),
    ],
)
def test_names_tell_pictures_apart(pictures: list[str], names: list[str]) -> None:
    table = coco_instances([line(one, "Which?", [RING]) for one in pictures])
    assert [one["file_name"] for one in table["images"]] == names


def test_names_that_cvat_takes_for_one_are_told(caplog: pytest.LogCaptureFixture) -> None:
    table = coco_instances([line(one, "Which?", [RING]) for one in ("x/1.jpg", "x/1.png")])
    assert [one["file_name"] for one in table["images"]] == ["1.jpg", "1.png"]
    assert "CVAT" in caplog.text


def test_categories_are_names_that_tools_take() -> None:
    long = "Which of the vehicles that stand beside the long grey building could be driven away at once"
    questions = [long, f"{long} and why?", "Which car?", "which CAR?", 'A "red" <car> & van', "车" * 99, "a\n b"]
    names = category_names(questions)
    assert all(0 < len(name) <= LONGEST_NAME for name in names)
    assert len({name.lower() for name in names}) == len(names)
    assert names[0] == "Which of the vehicles that stand beside the long grey..."
    assert names[1] == "Which of the vehicles that stand beside the long grey... (2)"
    assert names[2:5] == ["Which car?", "which CAR? (2)", "A 'red' (car) + van"]
    assert names[5] == "车" * 61 + "..." and names[6] == "a b"
    assert coco_instances([line("a.jpg", long, [RING])])["categories"][0]["question"] == long


def test_what_is_no_answer_is_told() -> None:
    good = line("a.jpg", "Which?", [RING])
    other = {**good, "rle": {**good["rle"], "size": [WIDTH, HEIGHT]}}
    short = json.loads(json.dumps(good))
    short["masks"][0]["rle"]["counts"] = short["masks"][0]["rle"]["counts"][:-1]
    for wrong in ({"picture": "a.jpg"}, {**good, "question": 3}, other, short, ["a.jpg"]):
        with pytest.raises(UserError, match="answer 2"):
            coco_instances([good, wrong])
    turned = line("a.jpg", "And now?", [])
    turned["rle"]["size"] = [WIDTH, HEIGHT]
    with pytest.raises(UserError, match="two pictures of that name"):
        coco_instances([good, turned])


def test_this_projects_reader_takes_it(tmp_path: Path) -> None:
    """What was answered is what is asked, by the data set `coco`."""
    long = "Which of the vehicles that stand beside the long grey building could be driven away at once?"
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    lines = [
        line(tmp_path / "images" / "a.png", "Which car?", [PARTS, RING]),
        line(tmp_path / "images" / "a.png", long, [NOISE]),
        line(tmp_path / "images" / "b.png", "Which car?", [], NO_SEG),
    ]
    write_coco(tmp_path / "test.json", lines)
    samples = load_dataset(tmp_path, "test", "coco")
    assert [sample.question for sample in samples] == ["Which car?", long, "Which car?"]
    assert [sample.image_path.name for sample in samples] == ["a.png", "a.png", "b.png"]
    expected = [[PARTS, RING], [NOISE], []]
    for sample, masks in zip(samples, expected, strict=True):
        assert (target_masks(sample, HEIGHT, WIDTH) == np.array(masks).reshape(-1, HEIGHT, WIDTH)).all()
        assert len(sample.targets) == len(masks)
