"""utils.datasets.formats.own_coco: where files lie, whose questions are asked, what bad labels get."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from model.masks import encode_mask
from tests.utils.datasets.formats.drawn_own import SIZE, annotation, box, draw_picture, write_coco
from utils.datasets import labelled
from utils.datasets.base import BadRecord, Sample, target_masks
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

FIRST, SECOND = box(10, 10, 30, 20), box(50, 30, 60, 40)  # 200 and 100 pixels


def load(root: Path, split: str = "all", **options: Any) -> list[Sample]:
    return load_dataset(root, split, "coco", **options)


def one_picture(root: Path, *annotations: dict, **fields: Any) -> Path:
    draw_picture(root / "images" / "a.jpg")
    write_coco(root / "instances.json", {1: {"file_name": "a.jpg", **fields}}, list(annotations))
    return root


# Where files lie


@pytest.mark.parametrize(
    ("labels", "picture"),
    [
        ("val.json", "images/a.jpg"),
        ("annotations/val.json", "images/val/a.jpg"),
        ("annotations/instances_val.json", "val/a.jpg"),
        ("valid/_annotations.coco.json", "valid/a.jpg"),
        ("val.json", "a.jpg"),
    ],
)
def test_the_files_of_a_split_are_found_as_tools_write_them(tmp_path: Path, labels: str, picture: str) -> None:
    draw_picture(tmp_path / picture)
    write_coco(tmp_path / labels, {1: "a.jpg"}, [annotation(1, 1, [FIRST])])
    (one,) = load(tmp_path, "val")
    assert (one.question.count("roof"), one.image_path) == (1, tmp_path / picture)
    with pytest.raises(UserError, match="no split 'test'; there are vali?d?, and all"):
        load(tmp_path, "test")


def test_paths_of_another_machine_are_cut_and_subfolders_kept(tmp_path: Path) -> None:
    names = {1: "C:\\labels\\a.jpg", 2: "/home/me/b.jpg", 3: "north/c.jpg", 4: "../d.jpg"}
    for name in ("images/a.jpg", "images/b.jpg", "images/north/c.jpg", "images/d.jpg", "d.jpg"):
        draw_picture(tmp_path / name)
    write_coco(tmp_path / "instances.json", dict(names), [annotation(i, i, [FIRST]) for i in names])
    found = [one.image_path.relative_to(tmp_path / "images").as_posix() for one in load(tmp_path)]
    assert found == ["a.jpg", "b.jpg", "north/c.jpg", "d.jpg"]


def test_one_file_is_divided_by_picture_and_its_name_is_all_of_it(tmp_path: Path) -> None:
    names = {i: f"{i}.png" for i in range(1, 31)}
    for name in names.values():
        draw_picture(tmp_path / name)
    write_coco(tmp_path / "roofs.json", dict(names), [annotation(i, i, [FIRST]) for i in names])
    parts = [{one.image_path.name for one in load(tmp_path, split)} for split in ("train", "val", "test")]
    assert all(parts) and sum(map(len, parts)) == 30 == len(set.union(*parts))
    assert len(load(tmp_path, "roofs")) == len(load(tmp_path)) == 30
    (tmp_path / "splits.json").write_text(json.dumps({"test": ["3.png", "7"]}))
    assert {one.image_path.name for one in load(tmp_path, "test")} == {"3.png", "7.png"}


def test_all_joins_the_files_with_keys_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "val"):
        draw_picture(tmp_path / split / "a.jpg")
        write_coco(tmp_path / f"{split}.json", {1: "a.jpg"}, [annotation(1, 1, [FIRST])])
    both = load(tmp_path)
    assert [(one.index, one.key) for one in both] == [(0, "train/1:only:roof"), (1, "val/1:only:roof")]
    assert [one.image_path.parent.name for one in both] == ["train", "val"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("train.json", "annotations/instances_train.json"),
        ("val.json", "valid/_annotations.coco.json"),
        ("annotations/roofs.json", "annotations/instances_roofs.json"),
    ],
)
def test_two_files_of_one_split_are_refused_and_named(tmp_path: Path, one: str, other: str) -> None:
    for file in (one, other):
        write_coco(tmp_path / file, {1: "a.jpg"}, [annotation(1, 1, [FIRST])])
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert all(str(tmp_path / file) in str(caught.value) for file in (one, other))
    assert "are both of the split" in str(caught.value)


def test_a_folder_without_labels_and_a_file_of_another_kind_are_told(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"train\.json: .*(?s:.*)images"):
        load(tmp_path, "train")
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="no COCO file of instances, for it has no list 'images'"):
        load(tmp_path)
    write_coco(tmp_path / "results.json", {1: "a.jpg"}, [annotation(1, 2, [FIRST])])
    with pytest.raises(UserError, match="annotation 0: image_id is 2, which no picture"):
        load(tmp_path)


# Targets


def test_polygons_overhang_and_run_lengths_are_read_in_all_forms(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[5:15, 5:25] = 1
    packed = encode_mask(mask)
    runs = {"size": list(SIZE), "counts": [305, 10, *[50, 10] * 19, 60 * 80 - 305 - 60 * 19 - 10]}
    root = one_picture(
        tmp_path,
        annotation(1, 1, [box(70, 50, 95, 75)], question="Which overhangs?"),
        annotation(2, 1, packed, question="Which is packed?"),
        annotation(3, 1, runs, question="Which is in numbers?"),
        annotation(4, 1, [FIRST, SECOND], question="Which has two parts?"),
    )
    drawn = [target_masks(one, *SIZE)[0] for one in load(root)]
    assert [int(one.sum()) for one in drawn] == [100, 200, 200, 300]
    assert (drawn[1] == mask).all() and (drawn[2] == mask).all() and drawn[0][50:, 70:].all()
    assert [int(target_masks(one, *SIZE).sum()) for one in load(root, polygons="first")] == [100, 200, 200, 200]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "polygon 0 has 2 points"),
        ([box(90, 10, 99, 20)], "lies wholly outside the frame of 80x60"),
        ([], r"segmentation is \[\]"),
        ({"size": [60, 80], "counts": [4800]}, "covers no pixel"),
        ({"size": [60, 80], "counts": [10, 10]}, "do not add up to 4800"),
        ({"size": [80, 60], "counts": "0"}, "60x80"),
    ],
)
def test_a_bad_label_is_named_and_spoils_its_picture_alone(tmp_path: Path, segmentation: Any, message: str) -> None:
    for name in "ab":
        draw_picture(tmp_path / f"{name}.jpg")
    rows = [annotation(1, 1, [FIRST]), annotation(7, 1, segmentation), annotation(3, 2, [FIRST])]
    write_coco(tmp_path / "instances.json", {1: "a.jpg", 2: "b.jpg"}, rows)
    with pytest.raises(BadRecord, match=rf"instances\.json: image 1 \('a\.jpg'\), annotation 1 \(id 7\).*{message}"):
        load(tmp_path)
    skipped: list[str] = []
    (one,) = load(tmp_path, skip_bad_records=True, skipped=skipped)
    assert one.image_path.name == "b.jpg" and len(skipped) == 1  # the one that is left of a.jpg is not its only one


def test_a_missing_picture_and_a_nameless_category_are_bad_records(tmp_path: Path) -> None:
    write_coco(tmp_path / "instances.json", {1: "gone.jpg"}, [annotation(1, 1, [FIRST])])
    with pytest.raises(BadRecord, match=r"its picture .*gone\.jpg is missing"):
        load(tmp_path)
    root = one_picture(tmp_path, annotation(1, 1, [FIRST], category_id=9))
    with pytest.raises(BadRecord, match="category_id is 9, which has no name"):
        load(root)


# Questions


def test_annotations_with_the_same_question_are_its_targets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = one_picture(
        tmp_path,
        annotation(4, 1, [FIRST], caption="every flat roof", answer="Two of them."),
        annotation(5, 1, [SECOND], attributes={"occluded": False, "text": ["the small roof", "every flat roof"]}),
        annotation(6, 1, [box(0, 0, 9, 9)]),
    )
    with caplog.at_level(logging.INFO):
        flat, small = load(root)
    assert (flat.question, flat.key, flat.answer) == ("every flat roof", "1:4", "Two of them.")
    assert [int(one.sum()) for one in target_masks(flat, *SIZE)] == [200, 100]
    assert (small.question, small.key, len(small.targets)) == ("the small roof", "1:5", 1)
    assert flat.groups == {"category": "roof"}
    assert "1 labelled objects answer none of the questions" in caplog.text


def test_questions_of_a_picture_name_their_annotations(tmp_path: Path) -> None:
    asked = [
        {"question": "Which is larger?", "annotation_ids": [5], "answer": "This."},
        {"question": "Where is a pond?", "no_target": True},
        "all that is built",
        {"question": "Which is smaller?", "annotation_ids": 4},
    ]
    root = one_picture(tmp_path, annotation(4, 1, [SECOND]), annotation(5, 1, [FIRST]), questions=asked)
    larger, pond, built, smaller = load(root)
    assert target_masks(smaller, *SIZE).sum() == 100
    assert (target_masks(larger, *SIZE).sum(), larger.answer) == (200, "This.")
    assert (pond.targets, pond.key) == ((), "1:questions1")
    assert len(built.targets) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"question": "Which?", "annotation_ids": [6]}, "annotation_ids has 6, which no annotation"),
        ({"question": "Which?", "annotation_ids": [4, 4]}, r"annotation_ids is \[4, 4\], which names .* twice"),
        ({"question": "Which?", "annotation_ids": 6}, "annotation_ids has 6, which no annotation"),
        ({"question": "Which?", "annotation_ids": [True]}, "annotation_ids has True, which no annotation"),
        ({"question": "Which?"}, "either annotations or no_target"),
        ({"question": " "}, "expected a text"),
        (7, "expected a text"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, asked: Any, message: str) -> None:
    rows = annotation(4, 1, [FIRST], question="Which?"), annotation(1, 1, [SECOND])
    root = one_picture(tmp_path, *rows, questions=[asked])
    with pytest.raises(BadRecord, match=message):
        load(root)


def test_without_questions_they_are_made_of_the_categories(tmp_path: Path) -> None:
    root = one_picture(tmp_path, annotation(1, 1, [FIRST]), annotation(2, 1, [SECOND]))
    samples = load(root)
    assert samples == load(root)
    by_key = {one.key: one for one in samples}
    assert {one.groups["question"] for one in samples} == {"all", "size", "place"}
    assert [int(m.sum()) for m in target_masks(by_key["1:every:roof"], *SIZE)] == [200, 100]
    assert target_masks(by_key["1:largest:roof"], *SIZE).sum() == 200
    assert "largest roof" in by_key["1:largest:roof"].question.replace("roof is the largest", "largest roof")


def test_colours_are_asked_where_the_pixels_tell(tmp_path: Path) -> None:
    root = one_picture(tmp_path, annotation(1, 1, [FIRST]), annotation(2, 1, [SECOND]))
    assert not [one for one in load(root) if one.groups["question"] == "colour"]
    draw_picture(root / "images" / "a.jpg", {(10, 10, 30, 20): (30, 60, 200), (50, 30, 60, 40): (150, 150, 150)})
    (blue,) = [one for one in load(root) if one.groups["question"] == "colour"]
    assert "blue" in blue.question and target_masks(blue, *SIZE).sum() == 200


def test_that_colours_are_not_asked_in_a_large_set_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = one_picture(tmp_path, annotation(1, 1, [FIRST]), annotation(2, 1, [SECOND]))
    draw_picture(root / "images" / "a.jpg", {(10, 10, 30, 20): (30, 60, 200), (50, 30, 60, 40): (150, 150, 150)})
    monkeypatch.setattr(labelled, "MOST_LOOKED_AT", 0)
    with caplog.at_level(logging.WARNING):
        assert not [one for one in load(root) if one.groups["question"] == "colour"]
    assert "no questions of colour are made, for which more than 0 pictures" in caplog.text


def test_a_crowd_is_neither_counted_nor_compared(tmp_path: Path) -> None:
    crowd = annotation(2, 1, encode_mask(np.pad(np.ones((20, 20), np.uint8), ((40, 0), (0, 60)))), iscrowd=1)
    root = one_picture(tmp_path, annotation(1, 1, [FIRST]), crowd, annotation(3, 1, [SECOND], category_id=2))
    write_coco(
        root / "instances.json", {1: "a.jpg"}, json.loads((root / "instances.json").read_text())["annotations"],
        ("roof", "pond"),
    )  # fmt: skip
    assert coco.area(crowd["segmentation"]) == 400
    assert [one.key for one in load(root)] == ["1:only:pond"]


def test_which_questions_are_made_is_said_beside_the_labels(tmp_path: Path) -> None:
    root = one_picture(tmp_path, annotation(1, 1, [FIRST]), annotation(2, 1, [SECOND]))
    (root / "made_questions.json").write_text('{"kinds": ["size", "none"]}')
    assert {one.groups["question"] for one in load(root)} == {"size", "none"}
    assert [one.targets for one in load(root) if one.groups["question"] == "none"] == [()]
    for bad, message in (
        ('{"kinds": ["sizes"]}', "kinds are"),
        ('{"sort": 1}', "it takes kinds"),
        ('{"seed": -1}', "seed"),
    ):
        (root / "made_questions.json").write_text(bad)
        with pytest.raises(UserError, match=message):
            load(root)
