"""Masks into polygons along the edges of their pixels, from which the same mask is drawn again."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco
from scipy.spatial import cKDTree

from model.masks import polygons_rle


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons of a mask, uint8[H, W] of 0 and 1, one for each of its parts, as [x, y, x, y, …].

    A hole is reached from the outline and left the same way, so that by the even-odd rule, by which pycocotools draws,
    it is outside. Corners lie on the corners of pixels: OpenCV follows pixels' centres, which would cost each object
    half a pixel all round; in the mask at twice its size each corner of a pixel has a centre of its own.
    """
    twice = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    found, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if tree is None:
        return []
    outlines: dict[int, np.ndarray] = {}
    for i, (_, _, _, parent) in enumerate(tree[0]):
        if parent < 0:
            outlines[i] = corners(found[i][:, 0])
    for i, (_, _, _, parent) in enumerate(tree[0]):
        if parent >= 0:
            outlines[parent] = with_hole(outlines[parent], corners(found[i][:, 0]))
    return [[float(value) for value in points.reshape(-1)] for points in outlines.values()]


def corners(pixels: np.ndarray) -> np.ndarray:
    """The turns of a contour of the doubled mask, int[N, 2], as corners of pixels of the mask, int[M, 2]."""
    points = (pixels + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def with_hole(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """An outline that goes to a hole, round it and back, between the two points that are nearest to each other."""
    distances, nearest = cKDTree(outline).query(hole)
    first = int(distances.argmin())
    start = int(nearest[first])
    around = np.concatenate([hole[first:], hole[: first + 1]])
    return np.concatenate([outline[: start + 1], around, outline[start:]])


def rle_polygons(rle: dict[str, Any]) -> tuple[list[list[float]], float]:
    """The polygons of an RLE, and the IoU of what they draw with it."""
    polygons = mask_polygons(coco.decode(rle))
    size = tuple(rle["size"])
    drawn = polygons_rle(tuple(tuple(one) for one in polygons), size, size)
    return polygons, float(coco.iou([drawn], [rle], [0])[0, 0])
