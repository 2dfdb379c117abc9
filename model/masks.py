"""Masks: run lengths, boxes, confidence, polygons to run lengths, and drawn over a picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco
from torch import Tensor

GROUPS = 7  # of five bits in a run at most, which a difference of 32-bit numbers needs with its sign
IGNORE_LABEL = 255  # a pixel of the ground truth that is not counted
PREDICTED, ANNOTATED = (255, 32, 208), (0, 216, 255)  # magenta, cyan: not the colour of roofs, cars or trees
# of several masks in a picture, told apart also by who sees no red or green
MASK_COLOURS = (PREDICTED, (255, 196, 0), (0, 216, 255), (140, 255, 40), (255, 110, 30), (150, 110, 255))
Polygon = tuple[float, ...]  # x0 y0 x1 y1 …, in pixels of the labels' frame


def confidence(logits: Tensor) -> float:
    """Published mask score: the mean probability of the foreground, float[H, W] -> 0 to 1; 0 where empty."""
    foreground = logits > 0
    return float((logits.sigmoid() * foreground).sum() / foreground.sum().clamp(min=1))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """bool or uint8[H, W] -> COCO RLE whose counts are text, as JSON needs them."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def paint_mask(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of uint8[H, W, 3] with the mask (bool or uint8[H, W]) tinted and outlined, holes included."""
    painted = image.copy()
    binary = np.ascontiguousarray(mask, np.uint8)
    left, top, width, height = cv2.boundingRect(binary)  # outside of which nothing changes
    part = painted[top : top + height, left : left + width]
    inside = binary[top : top + height, left : left + width].astype(bool)
    part[inside] = (0.55 * part[inside] + 0.45 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(mask.shape) / 300))
    return cv2.drawContours(np.ascontiguousarray(painted), outlines, -1, colour, thickness)


def paint_masks(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A copy of uint8[H, W, 3] with every mask of bool[K, H, W] in its colour of MASK_COLOURS, which come again."""
    painted = image.copy()
    for number, mask in enumerate(masks):
        painted = paint_mask(painted, mask, MASK_COLOURS[number % len(MASK_COLOURS)])
    return painted


def mask_area(rle: dict) -> int:
    """Pixels of a mask."""
    return int(coco.area(rle))


def mask_box(rle: dict) -> list[float] | None:
    """[x, y, width, height] of a mask, None where it is empty."""
    return [float(v) for v in coco.toBbox(rle)] if coco.area(rle) else None


def polygons_rle(polygons: tuple[Polygon, ...], frame: tuple[int, int], picture: tuple[int, int]) -> dict[str, Any]:
    """The union of polygons as a COCO RLE; what overhangs is cut off.

    Args:
        polygons: in pixels of `frame`, each of 3 points or more.
        frame: (height, width) that the polygons were drawn on.
        picture: (height, width) of the result.
    """
    scale = (picture[1] / frame[1], picture[0] / frame[0])
    scaled = [[v * scale[i % 2] for i, v in enumerate(polygon)] for polygon in polygons]
    return coco.merge(coco.frPyObjects(scaled, *picture))


def pixels_of(counts: str) -> int:
    """How many pixels run lengths fill; pycocotools tells only by decoding them, 20 ms a frame of 4K.

    A run is written in groups of five bits from the lowest, each a character from 48 to 111 whose sixth bit says that
    another follows, the last one's fifth bit being the sign; from the fourth run on it is written as the difference to
    the run before the last.

    Raises:
        ValueError: the last run is cut off, one is negative or has more groups than pycocotools' 32-bit integers take,
            or a character is another.
    """
    if not counts:
        return 0
    bits = np.frombuffer(counts.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    if bits.min() < 0 or bits.max() > 63:
        raise ValueError("another character")
    ends = np.flatnonzero((bits & 32) == 0)
    if len(ends) == 0 or ends[-1] != len(bits) - 1:
        raise ValueError("the last run is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(bits)) - np.repeat(starts, ends - starts + 1)
    if places.max() >= GROUPS:
        raise ValueError("too many groups")
    runs = np.add.reduceat((bits & 31) << (5 * places), starts)
    runs -= np.where(bits[ends] & 16, 1 << (5 * (places[ends] + 1)), 0)
    for first in (1, 2):  # of the runs that are written as differences
        runs[first::2] = np.cumsum(runs[first::2])
    if runs.min() < 0:
        raise ValueError("a negative run")
    return int(runs.sum())
