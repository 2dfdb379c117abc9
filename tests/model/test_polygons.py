"""Polygons of masks: filled by pycocotools, and by the shoelace formula, they are the masks."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from model.polygons import mask_polygons


def filled(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """uint8[H, W], what COCO's tools make of polygons."""
    if not polygons:
        return np.zeros((height, width), np.uint8)
    return coco.decode(
        coco.merge(coco.frPyObjects([one.ravel().astype(float).tolist() for one in polygons], height, width))
    )


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def blobs(random: np.random.Generator) -> np.ndarray:
    """A mask of specks or blobs, with holes and islands in them."""
    height, width = random.integers(1, 48, 2)
    noise = cv2.GaussianBlur(random.random((height, width)).astype(np.float32), (0, 0), random.choice([0.3, 1, 2]))
    return (noise > random.choice([0.4, 0.5, 0.6])).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_they_fill_exactly_the_mask_and_do_not_overlap(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(100):
        mask = blobs(random)
        polygons = mask_polygons(mask)
        assert np.array_equal(filled(polygons, *mask.shape), mask)
        assert sum(map(area, polygons)) == mask.sum()
        assert all(len(one) >= 4 for one in polygons)


def test_corners_are_those_of_pixels() -> None:
    mask = np.zeros((6, 8), bool)
    mask[2, 3] = True
    (one,) = mask_polygons(mask)
    assert sorted(map(tuple, one)) == [(3, 2), (3, 3), (4, 2), (4, 3)]
    mask[2:5, 3:7] = True
    assert sorted(map(tuple, mask_polygons(mask)[0])) == [(3, 2), (3, 5), (7, 2), (7, 5)]


def test_a_ring_with_an_island_is_cut_once() -> None:
    mask = np.ones((9, 9), bool)
    mask[1:8, 1:8] = False
    mask[4, 4] = True
    polygons = mask_polygons(mask)
    assert len(polygons) == 3 and np.array_equal(filled(polygons, 9, 9), mask)


def test_an_empty_mask_has_none() -> None:
    assert mask_polygons(np.zeros((4, 5), bool)) == []


def test_a_tolerance_leaves_fewer_corners_and_nearly_the_mask() -> None:
    mask = np.zeros((200, 300), np.uint8)
    cv2.circle(mask, (150, 100), 80, 1, cv2.FILLED)
    exact, simple = mask_polygons(mask), mask_polygons(mask, tolerance=1.0)
    assert len(simple[0]) < len(exact[0]) / 4
    near = filled(simple, 200, 300)
    assert (near & mask).sum() / (near | mask).sum() > 0.98
    speck = mask_polygons(np.eye(1, dtype=bool), tolerance=5.0)
    assert len(speck) == 1 and len(speck[0]) >= 3


def test_parts_with_holes_take_no_more_memory_than_they_are_large() -> None:
    mask = np.zeros((900, 900), np.uint8)
    for top in range(0, 900, 30):
        for left in range(0, 900, 30):
            mask[top + 2 : top + 28, left + 2 : left + 28] = 1
            mask[top + 10 : top + 20, left + 10 : left + 20] = 0
    tracemalloc.start()
    polygons = mask_polygons(mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(polygons) == 2 * 900 and peak < 40 * mask.nbytes
