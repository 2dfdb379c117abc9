"""utils.datasets.formats.labelme: JSON files beside pictures."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.utils.datasets.formats.drawn_own import SIZE, draw_picture
from utils.datasets.base import BadRecord, Sample, target_masks
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

POLYGON = [[10, 10], [30, 10], [30, 20], [10, 20]]  # 200 pixels
CORNERS = [[60, 40], [50, 30]]  # 100 pixels


def load(root: Path, split: str = "all", **options: Any) -> list[Sample]:
    return load_dataset(root, split, "labelme", **options)


def shape(points: list, label: str = "roof", kind: str = "polygon", **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **fields}


def write(file: Path, *shapes: dict, picture: str = "", **fields: Any) -> Path:
    draw_picture(file.parent / (picture or f"{file.stem}.jpg").replace("\\", "/"))
    table = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imageData": None,
             "imagePath": picture or f"{file.stem}.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(table | fields))
    return file


def areas(sample: Sample) -> list[int]:
    return [int(one.sum()) for one in target_masks(sample, *SIZE)]


def test_shapes_of_each_kind_are_drawn(tmp_path: Path) -> None:
    small = BytesIO()
    Image.fromarray(np.eye(10, dtype=np.uint8) * 255).save(small, "PNG")
    data = base64.b64encode(small.getvalue()).decode()
    write(
        tmp_path / "a.json",
        shape(POLYGON, description="Which is a polygon?"),
        shape(CORNERS, kind="rectangle", description="Which is a rectangle?"),
        shape([[40, 30], [40, 20]], kind="circle", flags={"Which is a circle?": True, "occluded": False}),
        shape([[5, 40], [15, 50]], kind="mask", mask=data, description="Which is a mask?"),
    )
    polygon, rectangle, circle, mask = load(tmp_path)
    assert (areas(polygon), areas(rectangle), areas(mask)) == ([200], [100], [10])
    assert areas(circle)[0] == pytest.approx(np.pi * 100, rel=0.02) and circle.question == "Which is a circle?"
    assert target_masks(mask, *SIZE)[0, 40:50, 5:15].trace() == 10


def test_shapes_of_one_group_are_one_object_and_of_one_question_its_targets(tmp_path: Path) -> None:
    write(
        tmp_path / "a.json",
        shape(POLYGON, group_id=1, description="every roof"),
        shape(CORNERS, group_id=1, kind="rectangle"),
        shape([[0, 0], [9, 9]], kind="rectangle", description="every roof"),
    )
    (one,) = load(tmp_path)
    assert (one.question, areas(one), one.key) == ("every roof", [300, 81], "a:0")


def test_flags_of_a_file_ask_about_all_of_it_or_about_nothing(tmp_path: Path) -> None:
    write(
        tmp_path / "a.json", shape(POLYGON), shape(CORNERS, kind="rectangle"), flags={"all roofs": True, "dark": False}
    )
    write(tmp_path / "b.json", flags={"Where is a pond?": True})
    roofs, pond = load(tmp_path)
    assert (roofs.question, areas(roofs), pond.question, pond.targets) == (
        "all roofs",
        [200, 100],
        "Where is a pond?",
        (),
    )


def test_without_questions_they_are_made_of_the_labels(tmp_path: Path) -> None:
    write(tmp_path / "a.json", shape(POLYGON, "Flat_Roof"), shape(CORNERS, "Flat_Roof", "rectangle"))
    by_key = {one.key: one for one in load(tmp_path)}
    assert areas(by_key["a:largest:flat roof"]) == [200] and areas(by_key["a:every:flat roof"]) == [200, 100]


def test_splits_are_folders_or_drawn_and_pictures_are_found(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a.json", shape(POLYGON))
    write(tmp_path / "valid" / "json" / "b.json", shape(POLYGON), picture="..\\pictures\\b.jpg")
    assert [len(load(tmp_path, split)) for split in ("train", "val", "all")] == [1, 1, 2]
    assert load(tmp_path, "val")[0].image_path == tmp_path / "valid" / "pictures" / "b.jpg"
    with pytest.raises(UserError, match="no split 'test'; there are the folders train, valid"):
        load(tmp_path, "test")  # not drawn of what is trained on
    (tmp_path / "train" / "a.jpg").rename(tmp_path / "train" / "c.jpg")
    with pytest.raises(BadRecord, match=r"a\.json: its picture .*a\.jpg is missing"):
        load(tmp_path, "train")
    write(tmp_path / "train" / "c.json", shape(POLYGON), imagePath="IMG_1.jpg")  # renamed after it was labelled
    (tmp_path / "train" / "a.json").unlink()
    assert load(tmp_path, "train")[0].image_path.name == "c.jpg"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"\*\.json: .*(?s:.*)nothing"):
        load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape([[1, 1]], kind="point"), "a shape of the kind 'point' encloses no area; known are polygon, rectangle"),
        (shape([[1, 1], [5, 5]]), "has 2 points; a polygon needs 3"),
        (shape([[1, 1]], kind="circle"), "a circle has 1 points"),
        (shape(POLYGON, kind=["polygon"]), r"shape_type is \['polygon'\], expected a text"),
        (shape([1, 2]), r"points are \[1, 2\]"),
        (shape(POLYGON, label=" "), "label is ' '"),
        (shape([[1, 1], [5, 5]], kind="mask", mask="?"), "its mask cannot be read"),
    ],
)
def test_a_bad_shape_is_named(tmp_path: Path, bad: dict, message: str) -> None:
    write(tmp_path / "a.json", shape(CORNERS, kind="rectangle"), bad)
    write(tmp_path / "b.json", shape(CORNERS, kind="rectangle"))
    with pytest.raises(BadRecord, match=rf"a\.json: shape 1.*{message}"):
        load(tmp_path)
    skipped: list[str] = []
    assert len(load(tmp_path, skip_bad_records=True, skipped=skipped)) == len(skipped) == 1


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.json", shape(CORNERS, kind="rectangle"))
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(BadRecord, match=r"b\.json: not JSON"):
        load(tmp_path)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(BadRecord, match=r"b\.json: no file of labelme's, for it has no list 'shapes'"):
        load(tmp_path)
