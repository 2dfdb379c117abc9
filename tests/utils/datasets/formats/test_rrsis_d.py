"""utils.datasets.formats.rrsis_d: objects in remote-sensing pictures by their description."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.masks import encode_mask
from tests.utils.datasets.formats.drawn_refer import HEIGHT, WIDTH, annotation, ref, write_set
from utils.datasets.base import target_masks
from utils.datasets.registry import dataset_spec, load_dataset
from utils.runtime.errors import UserError

MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[3:9, 10:21] = 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # image_id and ref_id differ: pictures are not found by the number of the ref.
    refs = [ref(5, "test", "A Dam", image=2, ann=1), ref(6, "train", ann=2)]
    objects = [annotation(1, [encode_mask(MASK)], image=2), annotation(2, [encode_mask(1 - MASK)], category_id=9)]
    return write_set(tmp_path, "rrsisd/refs(unc).p", "images/rrsisd/JPEGImages", refs, objects)


def test_run_lengths_are_targets_and_categories_groups(root: Path) -> None:
    (one,) = load_dataset(root, "test", "rrsis-d")
    assert (one.question, one.key, one.groups) == ("a dam", "50", {"category": "car"})
    assert one.image_path.name == "COCO_train2014_000000000002.jpg"
    assert (target_masks(one, HEIGHT, WIDTH)[0] == MASK).all()
    (other,) = load_dataset(root, "train", "rrsis-d")
    assert other.groups == {}  # a category without a name


def test_the_folder_of_the_labels_may_be_named(root: Path) -> None:
    (one,) = load_dataset(root / "rrsisd", "test", "rrsis-d")
    assert one.image_path.samefile(root / "images/rrsisd/JPEGImages/COCO_train2014_000000000002.jpg")


def test_a_set_without_its_pictures_is_told(root: Path) -> None:
    (root / "images").rename(root / "pictures")
    with pytest.raises(
        UserError, match=r"JPEGImages: not there; .*\n.*refs\(unc\)\.p\n(.*\n)+.*there is: pictures, rr"
    ):
        load_dataset(root, "test", "rrsis-d")


def test_rules_are_those_of_rmsin_and_of_segearth() -> None:
    spec = dataset_spec("rrsis-d")
    clean, official, segearth = (spec.scoring(name) for name in ("clean", "official", "segearth"))
    assert (clean.canvas, official.canvas, segearth.canvas) == ("picture", "square480", "letterbox1024")
    assert (official.empty_iou, segearth.empty_iou) == (0.0, 1.0)
    assert official.metrics == clean.metrics == ("giou", "ciou", "pr50", "pr60", "pr70", "pr80", "pr90")
    assert segearth.metrics == ("giou", "ciou", *(f"pr{i}_strict" for i in (50, 60, 70, 80, 90)))
    assert {one.unit for one in (clean, official, segearth)} == {"question"}
