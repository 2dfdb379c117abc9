"""utils.datasets.formats.geopixeld: descriptions with marked phrases, one file a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.utils.datasets.formats.drawn_files import box_points, draw_picture, write_labels
from utils.datasets.base import BadRecord, target_masks
from utils.datasets.registry import dataset_spec, load_dataset
from utils.runtime.errors import UserError

TEXT = "The image shows <p> two tennis courts </p> [SEG] , beside\n <p> a pool-1 </p>[SEG]."
COURTS = [box_points(0, 0, 10, 10), box_points(20, 0, 30, 10)]
POOL = [box_points(5, 15, 15, 25)]


def record(**fields: Any) -> dict[str, Any]:
    return {"id": 3, "img": "P0224_0_800_0_800.png", "gcg_description": TEXT, "polygons": [COURTS, POOL], **fields}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("P0224_0_800_0_800", "P0007_0_800_0_800", "P0001_0_800_0_800"):
        draw_picture(tmp_path / "test" / f"{name}.png")
    write_labels(tmp_path / "test" / "P0224_0_800_0_800.json", record())
    write_labels(tmp_path / "test" / "P0007_0_800_0_800.json", record(id=4))
    return tmp_path  # the third patch has no labels, as most have none


def test_a_description_becomes_a_sample(root: Path) -> None:
    first, second = load_dataset(root, "test", "geopixeld")
    assert [first.key, second.key] == ["P0007_0_800_0_800", "P0224_0_800_0_800"]
    assert second.answer == "The image shows two tennis courts , beside a pool-1 ."
    assert second.phrases == ("two tennis courts", "a pool-1")
    assert second.groups == {"phrase_kinds": ("multi-target", "uni-target")}
    assert (second.height, second.width, second.size, second.index) == (30, 40, (30, 40), 1)
    assert second.question == first.question and "mark" in second.question
    masks = target_masks(second, 30, 40)
    assert masks.sum(axis=(1, 2)).tolist() == [200, 100]
    assert masks[0, :10, :10].all() and masks[0, :10, 20:30].all() and masks[1, 15:25, 5:15].all()
    assert dataset_spec("geopixeld").task == "grounded"


def test_the_folder_around_it_may_be_named(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outer = tmp_path_factory.mktemp("outer")
    root.rename(outer / "GeoPixelD")
    assert len(load_dataset(outer, "test", "geopixeld")) == 2


def test_equal_coordinates_are_one_object(root: Path) -> None:
    first, second = load_dataset(root, "test", "geopixeld")
    assert first.targets[0][0][2] is second.targets[0][0][2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"polygons": [COURTS]}, r"has 2 \[SEG\], 2 of them behind a <p> phrase </p>, and there are 1 masks"),
        ({"gcg_description": "A <p> car </p> [SEG] and [SEG]."}, r"has 2 \[SEG\], 1 of them behind"),
        ({"gcg_description": "Nothing.", "polygons": []}, r"has 0 \[SEG\]"),
        ({"gcg_description": None}, "gcg_description is None, expected a text"),
        ({"polygons": [COURTS, []]}, r"\[SEG\] 1: its polygons are \[\], expected a list"),
        ({"polygons": [COURTS, [[1, 2, 3, 4, 5, 6]]]}, r"\[SEG\] 1, polygon 0 is .*, expected points"),
        ({"polygons": [COURTS, [box_points(90, 0, 99, 9)]]}, r"polygon 0 lies wholly outside the frame of 40x30"),
    ],
)
def test_a_bad_record_is_named_or_skipped(root: Path, fields: dict[str, Any], message: str) -> None:
    write_labels(root / "test" / "P0224_0_800_0_800.json", record(**fields))
    with pytest.raises(BadRecord, match=f"P0224_0_800_0_800.json.*{message}"):
        load_dataset(root, "test", "geopixeld")
    skipped: list[str] = []
    (left,) = load_dataset(root, "test", "geopixeld", skip_bad_records=True, skipped=skipped)
    assert left.key == "P0007_0_800_0_800" and skipped[0].startswith("P0224_0_800_0_800.json")


def test_broken_json_and_a_missing_patch_are_bad_records(root: Path) -> None:
    (root / "test" / "P0224_0_800_0_800.json").write_text("{")
    with pytest.raises(BadRecord, match="P0224_0_800_0_800.json.*--skip-bad-records"):
        load_dataset(root, "test", "geopixeld")
    write_labels(root / "test" / "P0224_0_800_0_800.json", record())
    (root / "test" / "P0224_0_800_0_800.png").unlink()
    with pytest.raises(BadRecord, match="its picture .*P0224_0_800_0_800.png is missing"):
        load_dataset(root, "test", "geopixeld")


def test_patches_without_labels_are_told_with_the_layout(root: Path) -> None:
    draw_picture(root / "train" / "P0000.png")
    with pytest.raises(UserError) as caught:
        load_dataset(root, "train", "geopixeld")
    assert str(caught.value).splitlines() == [
        f"{root}/train/*.json: not there; expected is",
        f"    {root}/train/P0224_0_800_0_800.png",
        f"    {root}/train/P0224_0_800_0_800.json",
        f"In {root}/train there is: P0000.png. The data come from {dataset_spec('geopixeld').source}",
    ]
