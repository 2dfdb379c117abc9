"""utils.datasets.outlines: polygons that draw the mask they were made of."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from model.masks import encode_mask
from utils.datasets.crossings import crosses_itself
from utils.datasets.outlines import mask_polygons, rle_polygons


@pytest.mark.parametrize("blur", [1, 3, 9])
def test_any_mask_is_drawn_again_to_the_pixel(blur: int) -> None:
    random = np.random.default_rng(blur)
    for _ in range(40):
        values = cv2.blur(random.random(tuple(random.integers(3, 70, 2))), (blur, blur))
        mask = (values > np.quantile(values, random.uniform(0.1, 0.9))).astype(np.uint8)
        if mask.any():
            assert rle_polygons(encode_mask(mask))[1] == 1


def test_an_outline_has_the_corners_of_pixels_and_no_others() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:10, 10:30] = 1
    mask[20, 20] = 1
    assert sorted(sorted(zip(one[::2], one[1::2], strict=True)) for one in mask_polygons(mask)) == [
        [(10, 5), (10, 10), (30, 5), (30, 10)],
        [(20, 20), (20, 21), (21, 20), (21, 21)],
    ]
    assert mask_polygons(mask * 0) == []


def test_holes_are_reached_and_left_the_same_way() -> None:
    mask = np.ones((40, 60), np.uint8)
    mask[10:20, 10:20] = mask[15:25, 30:40] = 0
    mask[12:15, 12:15] = 1  # an island in a hole
    polygons, iou = rle_polygons(encode_mask(mask))
    assert (len(polygons), iou) == (2, 1.0)
    assert not any(crosses_itself(one) for one in polygons)
