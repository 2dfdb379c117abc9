"""utils.datasets.formats.earthreason, on small folders in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.utils.datasets.formats.drawn_pictures import Box, boxed, save_mask, save_picture
from utils.datasets.base import BadRecord, target_masks
from utils.datasets.formats import earthreason
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

BOX = (3, 4, 9, 10)
ASKED = {"questions": ["Where can ships stop?", "Which part is the port?"], "answer": ["At the port.", "Here.", "X"]}


def add(
    root: Path,
    name: str = "a",
    asked: Any = ASKED,
    box: Box | None = BOX,
    split: str = "val",
    endings: tuple[str, str] = ("jpg", "json"),
) -> Path:
    folder = root / "RSReasonSeg" / split
    save_picture(folder / "images" / f"{name}.{endings[0]}")
    save_mask(folder / "labels" / f"{name}.png", boxed(box, value=38))
    (folder / "QAs").mkdir(exist_ok=True)
    (folder / "QAs" / f"{name}.{endings[1]}").write_text(json.dumps(asked))
    return folder


def test_validation_asks_the_first_question_and_training_every_one(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        add(tmp_path, split=split)
        add(tmp_path, "b", {"questions": ["1?", "2?", "3?"], "answer": ["one", "two"]}, split=split)
    for split in ("val", "test"):
        samples = load_dataset(tmp_path, split, "earthreason")
        assert [(one.key, one.question, one.answer) for one in samples] == [
            ("a", "Where can ships stop?", "At the port."),
            ("b", "1?", "one"),
        ]
    samples = load_dataset(tmp_path / "RSReasonSeg", "train", "earthreason")
    assert [(one.key, one.question, one.answer) for one in samples] == [
        ("a#0", "Where can ships stop?", "At the port."),
        ("a#1", "Which part is the port?", "Here."),
        ("b#0", "1?", "one"),
        ("b#1", "2?", "two"),
        ("b#2", "3?", "one"),
    ]
    assert [one.index for one in samples] == [0, 1, 2, 3, 4]
    assert samples[0].targets is samples[1].targets and samples[0].size == (30, 40)
    assert (target_masks(samples[0], 30, 40)[0] == boxed(BOX)).all()


def test_files_are_paired_by_name_not_by_position(tmp_path: Path) -> None:
    add(tmp_path, "b", box=(0, 0, 5, 5))
    folder = add(tmp_path, "c", endings=("png", "txt"))
    save_mask(folder / "labels" / "a.png", boxed(BOX))  # would shift all that follow
    with pytest.raises(
        BadRecord, match=r"val: 'a' needs one file in each of images, labels, QAs, but has none in imag"
    ):
        load_dataset(tmp_path, "val", "earthreason")
    first, second = load_dataset(tmp_path, "val", "earthreason", skip_bad_records=True)
    assert (first.key, first.image_path.name, second.image_path.name) == ("b", "b.jpg", "c.png")
    assert (target_masks(first, 30, 40)[0] == boxed((0, 0, 5, 5))).all()
    assert (target_masks(second, 30, 40)[0] == boxed(BOX)).all()


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = add(tmp_path)
    save_picture(folder / "images" / "a.png")
    with pytest.raises(BadRecord, match=r"but has several files in images: a\.jpg, a\.png"):
        load_dataset(tmp_path, "val", "earthreason")


def test_without_an_answer_there_is_no_target(tmp_path: Path) -> None:
    add(tmp_path, asked={"questions": ["Where is the port?"], "answer": []}, box=None)
    (sample,) = load_dataset(tmp_path, "val", "earthreason")
    assert sample.targets == () and sample.answer == "There is no target object in the image."
    assert earthreason.SPEC.no_target


def test_a_picture_of_twice_its_mask_is_told_by_its_size(tmp_path: Path) -> None:
    folder = add(tmp_path)
    save_picture(folder / "images" / "a.jpg", (60, 80))
    (sample,) = load_dataset(tmp_path, "val", "earthreason")
    assert sample.size == (60, 80) and (sample.height, sample.width) == (30, 40)
    save_picture(folder / "images" / "a.jpg", (40, 30))
    with pytest.raises(BadRecord, match=r"'a': .*a\.jpg is 30x40 pixels, but the labels were drawn on 40x30"):
        load_dataset(tmp_path, "val", "earthreason")


@pytest.mark.parametrize(
    ("asked", "box", "told"),
    [
        ({"questions": ["Where?"], "answer": []}, BOX, r"no answer, but its mask .*a\.png marks 36 pixels"),
        (
            {"questions": ["Where?"], "answer": ["x"]},
            None,
            r"its mask .*a\.png is empty, but its questions have answers",
        ),
        ({"questions": [], "answer": ["x"]}, BOX, r"QAs/a\.json has no question"),
        ({"questions": [" "], "answer": ["x"]}, BOX, r"question 0 is ' ', expected a text"),
        ({"questions": ["Where?"], "answer": [None]}, BOX, r"answer 0 is None, expected a text"),
        ({"questions": ["Where?"], "answer": "x"}, BOX, r"answer is 'x', expected a list of texts"),
        ({"answer": ["x"]}, BOX, r"questions is None, expected a list of texts"),
        ([], BOX, r"questions is None, expected a list of texts"),
    ],
)
def test_bad_records_are_named_or_skipped(tmp_path: Path, asked: Any, box: Box | None, told: str) -> None:
    add(tmp_path, "a", asked, box)
    add(tmp_path, "b")
    with pytest.raises(BadRecord, match=rf"val: 'a'.*{told}"):
        load_dataset(tmp_path, "val", "earthreason")
    left_out: list[str] = []
    samples = load_dataset(tmp_path, "val", "earthreason", skip_bad_records=True, skipped=left_out)
    assert [(one.key, one.index) for one in samples] == [("b", 0)] and len(left_out) == 1


def test_questions_that_are_no_json_are_a_bad_record(tmp_path: Path) -> None:
    (add(tmp_path) / "QAs" / "a.json").write_text("{")
    with pytest.raises(BadRecord, match=r"'a': QAs/a\.json: .*not JSON"):
        load_dataset(tmp_path, "val", "earthreason")


@pytest.mark.parametrize("part", ["images", "labels", "QAs"])
def test_a_missing_folder_is_told_with_the_layout(tmp_path: Path, part: str) -> None:
    folder = add(tmp_path)
    (folder / part).rename(folder / "gone")
    with pytest.raises(UserError, match=rf"val/{part}: not there; (.|\n)*labels/NAME\.png(.|\n)*huggingface"):
        load_dataset(tmp_path, "val", "earthreason")


def test_published_rules_are_strict_and_on_the_canvas_of_1024() -> None:
    rules = earthreason.SPEC.scoring("official")
    assert (rules.canvas, rules.empty_iou) == ("letterbox1024", 1) and "pr50_strict" in rules.metrics
    assert "pr50" in earthreason.SPEC.metrics and earthreason.SPEC.scoring().canvas == "picture"
