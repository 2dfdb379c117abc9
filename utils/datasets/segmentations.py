"""COCO's `segmentation` into targets: polygons, run lengths as text or as numbers, each checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco

from model.masks import polygons_rle
from utils.datasets.base import BadRecord, Target
from utils.datasets.checks import checked_polygon, shortened


def checked_segmentation(where: str, value: Any, frame: tuple[int, int], polygons: str = "union") -> Target:
    """A target from what a COCO annotation holds under `segmentation`.

    Args:
        where: file and annotation.
        value: [[x, y, …], …], [x, y, …], or {"size": [height, width], "counts": text or numbers}.
        frame: (height, width) that it was drawn on.
        polygons: "union" or only the "first".

    Raises:
        BadRecord: it is none of these, is damaged, or covers no pixel.
    """
    if isinstance(value, dict):
        return checked_rle(where, value, frame)
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{where}: segmentation is {shortened(value)}, expected polygons or an RLE")
    lists = value if isinstance(value[0], list) else [value]
    if polygons == "first":
        lists = lists[:1]
    target = tuple(checked_polygon(f"{where}, polygon {i}", one, frame) for i, one in enumerate(lists))
    if not coco.area(polygons_rle(target, frame, frame)):
        raise BadRecord(f"{where} covers no pixel of the picture")
    return target


def checked_rle(where: str, value: dict[str, Any], frame: tuple[int, int]) -> dict[str, Any]:
    """A COCO RLE whose counts are text and sum up to the frame; pycocotools would read memory behind shorter ones.

    Raises:
        BadRecord: it is damaged, of another frame, or covers no pixel.
    """
    size, counts = value.get("size"), value.get("counts")
    if size != list(frame):
        raise BadRecord(f"{where}: an RLE of size {shortened(size)} in a frame of [height, width] {list(frame)}")
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts):
            raise BadRecord(f"{where}: counts of its RLE are {shortened(counts)}, expected whole numbers")
        runs = np.array(counts, np.int64)
    elif isinstance(counts, str):
        runs = run_lengths(counts)
    else:
        raise BadRecord(f"{where}: counts of its RLE are {shortened(counts)}, expected a text or numbers")
    if runs is None or (runs < 0).any() or runs.sum() != frame[0] * frame[1]:
        told = "damaged" if runs is None else f"of {int(runs.sum()):,} pixels in a frame of {frame[0] * frame[1]:,}"
        raise BadRecord(f"{where}: its RLE is {told}")
    if not runs[1::2].sum():
        raise BadRecord(f"{where} covers no pixel of the picture")
    if isinstance(counts, str):
        return {"size": list(frame), "counts": counts}
    packed = coco.frPyObjects({"size": list(frame), "counts": counts}, *frame)
    return {"size": list(frame), "counts": packed["counts"].decode("ascii")}


def run_lengths(counts: str) -> np.ndarray | None:
    """The runs of COCO's text form as int64[N], background first; None where the text is damaged.

    Each run is written in digits of 5 bits from the lowest on, bit 5 of a character saying that another follows, the
    sign in bit 4 of the last; from the fourth run on it is the difference to the run before the last one.
    """
    letters = np.frombuffer(counts.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not len(letters) or (letters < 0).any() or (letters > 63).any() or letters[-1] & 32:
        return None
    last = np.flatnonzero((letters & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first > 11).any():  # beyond 64 bits
        return None
    place = np.arange(len(letters)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((letters & 31) << (5 * place), first)
    values -= np.where(letters[last] & 16, 1 << (5 * (last - first + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
