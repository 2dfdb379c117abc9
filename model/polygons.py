"""Masks as polygons that fill exactly their pixels.

Corners are those of pixels: the pixel in column x and row y is the square from (x, y) to (x + 1, y + 1), as COCO's
tools fill it. COCO's polygons have no holes, and several are one mask, their union; so a part with holes is cut into
strips, each hole being open to a cut.
"""

from __future__ import annotations

import cv2
import numpy as np


def mask_polygons(mask: np.ndarray, tolerance: float = 0.0) -> list[np.ndarray]:
    """Polygons of a mask, without holes.

    Args:
        mask: bool or uint8[H, W], foreground where not zero.
        tolerance: pixels by which outlines may leave the mask to have fewer corners; 0 is exact.

    Returns:
        int[N, 2] each, N corners (x, y), 4 or more where it is exact, else 3; empty where the mask is
    """
    foreground = np.ascontiguousarray(mask != 0, np.uint8)
    left, top, width, height = cv2.boundingRect(foreground)
    if not width:
        return []
    found = []
    for part, first in _without_holes(foreground[top : top + height, left : left + width]):
        outlines, _ = cv2.findContours(_doubled(part), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        found += [_corners(outline) + (left + first, top) for outline in outlines]
    return [_simplified(one, tolerance) for one in found] if tolerance else found


def _without_holes(mask: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """A mask in pieces without holes, each with its first column."""
    outlines, nested = cv2.findContours(_doubled(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    _, labels = cv2.connectedComponents(mask, connectivity=8)
    whole, pieces = mask.copy(), []
    for number, (_, _, hole, outside) in enumerate(nested[0]):
        if outside >= 0 or hole < 0:  # is a hole itself, or has none
            continue
        spans = []
        while hole >= 0:
            columns = _corners(outlines[hole])[:, 0]
            spans.append((int(columns.min()), int(columns.max())))
            hole = nested[0][hole][0]
        column, row = outlines[number][0, 0] // 2
        part = (labels == labels[row, column]).astype(np.uint8)
        whole &= 1 - part
        edges = [0, *_cuts(spans), mask.shape[1]]
        pieces += [(part[:, start:end], start) for start, end in zip(edges, edges[1:], strict=False) if end > start]
    return [(whole, 0), *pieces]


def _cuts(spans: list[tuple[int, int]]) -> list[int]:
    """The fewest columns of which each span, of both ends, has one."""
    cuts: list[int] = []
    for start, end in sorted(spans, key=lambda span: span[1]):
        if not cuts or cuts[-1] < start:
            cuts.append(end)
    return cuts


def _doubled(mask: np.ndarray) -> np.ndarray:
    """Every pixel as four, so that OpenCV's outlines, which run through pixels, tell their sides apart."""
    return np.ascontiguousarray(mask.repeat(2, axis=0).repeat(2, axis=1))


def _corners(outline: np.ndarray) -> np.ndarray:
    """An outline of a doubled mask as corners of the mask's pixels, without those on a straight line."""
    points = (outline[:, 0] + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return points[turns | ((before * after).sum(axis=1) < 0)]


def _simplified(polygon: np.ndarray, tolerance: float) -> np.ndarray:
    """A polygon with fewer corners; as it was where less than a triangle would remain."""
    fewer = cv2.approxPolyDP(polygon.astype(np.int32)[:, None], tolerance, True)[:, 0]
    return fewer if len(fewer) >= 3 else polygon
