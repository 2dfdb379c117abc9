"""utils.datasets.base: targets drawn as masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from model.masks import IGNORE_LABEL
from utils.datasets.base import BadRecord, Sample, image_groups, target_masks
from utils.datasets.registry import load_dataset

Make = Callable[..., Any]
SQUARE = [10, 10, 30, 10, 30, 20, 10, 20]  # 20 x 10 pixels
SECOND = [50, 30, 60, 30, 60, 40, 50, 40]  # 10 x 10 pixels
GOLDEN = [  # height, width, polygon, area in golden/expected.json
    (360, 640, (200, 100, 320, 110, 330, 220, 210, 230), 14400),
    (512, 384, (60, 300, 140, 290, 150, 380, 120, 420, 70, 400), 9055),
]


def sample(targets: tuple, height: int = 60, width: int = 80) -> Sample:
    return Sample(Path("a.jpg"), "Which?", None, targets, height, width, "drseg", "a", 0)


def segments(*polygons: list) -> list[dict]:
    return [{"segmentation": list(polygons)}]


@pytest.mark.parametrize(("height", "width", "polygon", "area"), GOLDEN)
@pytest.mark.parametrize("nested", [True, False])
def test_masks_have_the_golden_areas(
    make_drseg: Make, make_record: Make, height: int, width: int, polygon: tuple, area: int, nested: bool
) -> None:
    segmentation = [list(polygon)] if nested else list(polygon)
    record = make_record(height=height, width=width, ann_list=[{"segmentation": segmentation}])
    (one,) = load_dataset(make_drseg([record]), "test")
    masks = target_masks(one, height, width)
    assert (masks.shape, masks.dtype) == ((1, height, width), np.uint8)
    assert masks.sum() == area


def test_targets_stay_apart_and_in_order_unless_merged(make_drseg: Make, make_record: Make) -> None:
    (one,) = load_dataset(make_drseg([make_record(ann_list=segments(SECOND) + segments(SQUARE))]), "test")
    masks = target_masks(one, 60, 80)
    assert [mask.sum() for mask in masks] == [100, 200]
    assert masks[0, 35, 55] == 1 and masks[1, 15, 15] == 1
    assert np.array_equal(target_masks(one, 60, 80, merge=True), masks.max(axis=0, keepdims=True))


def test_what_overhangs_is_cut_off(make_drseg: Make, make_record: Make) -> None:
    overhanging = [-10, -10, 10, -10, 10, 5, -10, 5]
    (one,) = load_dataset(make_drseg([make_record(ann_list=segments(overhanging))]), "test")
    mask = target_masks(one, 60, 80)[0]
    assert mask.sum() == 50 and mask[:5, :10].all()


def test_each_axis_has_its_own_scale() -> None:
    mask = target_masks(sample(((tuple(SQUARE),),)), 60, 160)[0]
    assert mask.sum() == 400 and mask[10:20, 20:60].all()


def test_an_rle_is_a_target_too() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:20, 10:30] = 1
    one = sample((coco.encode(np.asfortranarray(mask)),))
    assert np.array_equal(target_masks(one, 60, 80)[0], mask)
    assert np.array_equal(target_masks(one, 120, 160)[0], mask.repeat(2, 0).repeat(2, 1))
    with pytest.raises(BadRecord, match="record 'a': an RLE of 80x60 pixels in labels of a frame of 80x61"):
        target_masks(replace(one, height=61), 60, 80)


def test_no_target_is_no_mask() -> None:
    assert target_masks(sample(()), 60, 80).shape == (0, 60, 80)
    assert target_masks(sample(()), 60, 80, merge=True).shape == (0, 60, 80)


# Pixels that are not counted


def rle_of(rows: slice, columns: slice) -> dict[str, Any]:
    mask = np.zeros((60, 80), np.uint8)
    mask[rows, columns] = 1
    return coco.encode(np.asfortranarray(mask))


@pytest.mark.parametrize(
    "ignore",
    [((20.0, 0.0, 40.0, 0.0, 40.0, 60.0, 20.0, 60.0),), rle_of(slice(0, 60), slice(20, 40))],
    ids=["polygon", "rle"],
)
@pytest.mark.parametrize("scale", [1, 2])
def test_an_ignore_region_is_labelled_in_every_mask(ignore: Any, scale: int) -> None:
    one = replace(sample(((tuple(SQUARE),), (tuple(SECOND),))), ignore=ignore)
    plain = target_masks(replace(one, ignore=None), 60 * scale, 80 * scale)
    masks = target_masks(one, 60 * scale, 80 * scale)
    inside = np.zeros(masks.shape[1:], bool)
    inside[:, 20 * scale : 40 * scale] = True
    assert masks.dtype == np.uint8 and (masks[:, inside] == IGNORE_LABEL).all()
    assert np.array_equal(masks[:, ~inside], plain[:, ~inside])
    assert [int((mask == 1).sum()) for mask in masks] == [100 * scale**2, 100 * scale**2]
    (merged,) = target_masks(one, 60 * scale, 80 * scale, merge=True)
    assert (merged[inside] == IGNORE_LABEL).all() and (merged == 1).sum() == 200 * scale**2


def test_without_targets_nothing_is_ignored() -> None:
    assert target_masks(replace(sample(()), ignore=rle_of(slice(0, 9), slice(0, 9))), 60, 80).shape == (0, 60, 80)


def test_samples_of_a_picture_are_grouped_in_the_order_in_which_it_first_comes() -> None:
    samples = [replace(sample(()), image_path=Path(name)) for name in ("b", "a", "b", "c", "a")]
    assert image_groups(samples) == [[0, 2], [1, 4], [3]]
