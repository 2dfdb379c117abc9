"""utils.datasets.formats.refcoco: RefCLEF, RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.masks import encode_mask
from tests.utils.datasets.formats.drawn_refer import ACROSS, BESIDE, HEIGHT, SQUARE, WIDTH, annotation, ref, write_set
from utils.datasets.base import Sample, target_masks
from utils.datasets.formats.refcoco import SPECS
from utils.datasets.registry import dataset_spec, load_dataset
from utils.runtime.errors import UserError

COCO = "images/mscoco/images/train2014"
FILES = {
    "refclef": "refclef/refs(unc).p",
    "refclef-berkeley": "refclef/refs(berkeley).p",
    "refcoco": "refcoco/refs(unc).p",
    "refcoco+": "refcoco+/refs(unc).p",
    "refcoco-google": "refcoco/refs(google).p",
    "refcocog": "refcocog/refs(umd).p",
    "refcocog-google": "refcocog/refs(google).p",
}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(refs: list[Any], annotations: list[Any], file: str = FILES["refcoco"], pictures: str = COCO) -> Path:
        return write_set(tmp_path / "refer_seg", file, pictures, refs, annotations)

    return write


def pixels(sample: Sample) -> np.ndarray:
    (mask,) = target_masks(sample, HEIGHT, WIDTH)
    return mask


def test_every_sentence_is_a_question_in_lower_case_about_its_refs_object(make: Make) -> None:
    refs = [ref(1, "train", " The LEFT car ", "red one"), ref(2, "train", image=2), ref(3, "val")]
    root = make(refs, [annotation(1), annotation(2, [BESIDE], image=2), annotation(3)])
    first, second, third = load_dataset(root, "train", "refcoco")
    assert [one.question for one in (first, second, third)] == ["the left car", "red one", "the left car"]
    assert [(one.key, one.record_id, one.index) for one in (first, second, third)] == [
        ("10", "1", 0),
        ("11", "1", 1),
        ("20", "2", 2),
    ]
    assert {(one.dataset, one.answer, one.size) for one in (first, second, third)} == {("refcoco", None, (30, 40))}
    assert pixels(first).sum() == 100 and pixels(first)[5:15, 5:15].all()
    assert pixels(third).sum() == 50
    # Objects and names are in memory once, however many sentences there are.
    assert first.targets is second.targets and first.groups is second.groups and first.source is second.source
    assert first.image_path is second.image_path


def test_pictures_are_found_by_the_images_table_not_by_the_refs_file_name(make: Make) -> None:
    (one,) = load_dataset(make([ref(7, "val", image=2, ann=1)], [annotation(1, image=2)]), "val", "refcoco")
    assert one.image_path.name == "COCO_train2014_000000000002.jpg" and one.image_path.exists()


@pytest.mark.parametrize(
    ("split", "found"),
    [("testA", [1, 3]), ("testB", [2, 3]), ("test", [1, 2, 3, 4]), ("train", [5]), ("val", [6])],
)
def test_letters_are_found_anywhere_in_a_refs_split(make: Make, split: str, found: list[int]) -> None:
    splits = ("testA", "testB", "testAB", "test", "train", "val")
    refs = [ref(i, name) for i, name in enumerate(splits, start=1)]
    root = make(refs, [annotation(i) for i in range(1, 7)])
    assert [one.record_id for one in load_dataset(root, split, "refcoco")] == [str(number) for number in found]


@pytest.mark.parametrize("name", FILES)
def test_each_division_is_read_from_its_own_file(make: Make, name: str) -> None:
    pictures = "images/saiapr_tc-12" if name.startswith("refclef") else COCO
    root = make([ref(1, "val")], [annotation(1)], FILES[name], pictures)
    (one,) = load_dataset(root, "val", name)
    assert one.dataset == name and one.image_path.parent == root / pictures
    for other in FILES.keys() - {name}:
        with pytest.raises(UserError, match=r": not there; expected is\n"):
            load_dataset(root, "val", other)


def test_refclefs_run_lengths_are_united(make: Make) -> None:
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    masks[0, 2:6, 3:9] = masks[1, 4:8, 5:12] = 1
    root = make(
        [ref(1, "val")], [annotation(1, [encode_mask(m) for m in masks])], FILES["refclef"], "images/saiapr_tc-12"
    )
    (one,) = load_dataset(root, "val", "refclef")
    assert (pixels(one) == masks.max(axis=0)).all()
    assert isinstance(one.targets[0]["counts"], str)


def test_polygons_of_an_object_are_its_union_and_the_official_rules_take_overlaps_out(make: Make) -> None:
    root = make([ref(1, "val")], [annotation(1, [SQUARE, ACROSS])])
    (one,) = load_dataset(root, "val", "refcoco")
    assert pixels(one).sum() == 175 and len(one.targets) == 1 and len(one.targets[0]) == 2
    (one,) = load_dataset(root, "val", "refcoco", polygons="first")
    assert pixels(one).sum() == 100


def test_rules_are_those_of_lisa_and_of_lavt() -> None:
    assert [spec.name for spec in SPECS] == sorted(FILES)
    for spec in SPECS:
        clean, official, lavt = (spec.scoring(name) for name in ("clean", "official", "lavt"))
        assert clean.metrics == lavt.metrics == ("giou", "ciou", "pr50", "pr60", "pr70", "pr80", "pr90")
        assert (clean.canvas, clean.covered_once, clean.empty_iou) == ("picture", False, 1.0)
        assert official.metrics == ("giou", "ciou")
        assert (official.canvas, official.covered_once, official.empty_iou) == ("picture", True, 1.0)
        assert (lavt.canvas, lavt.covered_once, lavt.empty_iou) == ("square480", True, 0.0)
        assert {rules.unit for rules in (clean, official, lavt)} == {"question"}
        assert "'raw'" in lavt.note and not spec.no_target
    assert "test" not in dataset_spec("refcocog-google").splits and "testC" in dataset_spec("refclef").splits


def test_what_refclefs_run_lengths_do_not_tell_is_noted() -> None:
    for metric in ("official", "lavt"):
        assert "cannot be told once they are united" in dataset_spec("refclef-berkeley").scoring(metric).note
        assert "united" not in dataset_spec("refcoco").scoring(metric).note
    assert dataset_spec("refclef").scoring() == dataset_spec("refcoco").scoring()
