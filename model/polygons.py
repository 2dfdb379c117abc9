"""Masks as polygons that fill exactly their pixels.

Corners are those of pixels: the pixel in column x and row y is the square from (x, y) to (x + 1, y + 1), as COCO's
tools fill it. COCO's polygons have no holes, and several are one mask, their union; so a part with holes is cut into
strips, each hole being open to a cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    for part, corner in _without_holes(foreground[top : top + height, left : left + width]):
        outlines, _ = cv2.findContours(_doubled(part), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        found += [_corners(outline) + corner + (left, top) for outline in outlines]
    return [_simplified(one, tolerance) for one in found] if tolerance else found


def _without_holes(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A mask in pieces without holes, each no larger than its part, with its first corner (x, y)."""
    outlines, nested = cv2.findContours(_doubled(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    _, labels = cv2.connectedComponents(mask, connectivity=8)
    holed = [number for number, (_, _, hole, outside) in enumerate(nested[0]) if outside < 0 and hole >= 0]
    parts = [labels[row, column] for column, row in (outlines[number][0, 0] // 2 for number in holed)]
    yield mask & ~np.isin(labels, parts), np.zeros(2, int)
    for number, label in zip(holed, parts, strict=True):
        corners = _corners(outlines[number])
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        part = (labels[top:bottom, left:right] == label).astype(np.uint8)
        edges = [0, *(cut - left for cut in _cuts(_hole_spans(number, outlines, nested[0]))), right - left]
        for start, end in zip(edges, edges[1:], strict=False):
            if end > start:
                yield part[:, start:end], np.array([left + start, top])


def _hole_spans(number: int, outlines: Sequence[np.ndarray], nested: np.ndarray) -> list[tuple[int, int]]:
    """First and last column of each hole of a part."""
    spans = []
    hole = nested[number][2]
    while hole >= 0:
        columns = _corners(outlines[hole])[:, 0]
        spans.append((int(columns.min()), int(columns.max())))
        hole = nested[hole][0]
    return spans


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
