"""COCO's `segmentation` into a target: polygons or run lengths, checked."""

from __future__ import annotations

from typing import Any

from pycocotools import mask as coco

from model.masks import polygons_rle
from utils.datasets.base import BadRecord, Target
from utils.datasets.checks import checked_polygon, shortened
from utils.datasets.run_lengths import checked_rle


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
    target: Target
    if isinstance(value, dict):
        target = checked_rle(where, value, frame)
        area = coco.area(target)
    elif isinstance(value, list) and value:
        lists = value if isinstance(value[0], list) else [value]
        if polygons == "first":
            lists = lists[:1]
        target = tuple(checked_polygon(f"{where}, polygon {i}", one, frame) for i, one in enumerate(lists))
        area = coco.area(polygons_rle(target, frame, frame))
    else:
        raise BadRecord(f"{where}: segmentation is {shortened(value)}, expected polygons or an RLE")
    if not area:
        raise BadRecord(f"{where} covers no pixel of the picture")
    return target
