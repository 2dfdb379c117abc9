"""Samples: one question about one photograph, with the masks that answer it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from utils.errors import UserError

Polygon = tuple[float, ...]  # x0 y0 x1 y1 …, in pixels of the labels' frame
Target = tuple[Polygon, ...] | dict[str, Any]  # polygons whose union is meant, or a COCO RLE


class BadRecord(UserError):
    """A record that cannot be used; the message names the file and the record."""


@dataclass(frozen=True)
class Sample:
    """One question about one photograph.

    Args:
        image_path: the photograph.
        question: in plain words.
        answer: the annotated answer, reasoning included, or None.
        targets: what answers the question; every target gets a [SEG] group of its own, in this order.
        height: of the frame that the labels were drawn on, in pixels.
        width: likewise.
        reasoning_type: "spatial", "attribute", "scene", or None.
        altitude: of the drone in metres, where known.
        dataset: name in the registry.
        record_id: of the record in its file.
        index: position among the samples of the split, unique.
    """

    image_path: Path
    question: str
    answer: str | None
    targets: tuple[Target, ...]
    height: int
    width: int
    reasoning_type: str | None
    altitude: int | None
    dataset: str
    record_id: str
    index: int


def target_masks(sample: Sample, height: int, width: int, merge: bool = False) -> np.ndarray:
    """The targets as masks, drawn by pycocotools.

    Args:
        sample: its polygons are scaled when the picture has another size than the labels' frame.
        height: of the picture in pixels.
        width: likewise.
        merge: one mask, the union of all targets.

    Returns:
        uint8[K, height, width] of 0 and 1, K = 1 with `merge`
    """
    masks = [_draw(target, sample.height, sample.width, height, width) for target in sample.targets]
    if not masks:
        return np.zeros((0, height, width), np.uint8)
    stacked = np.stack(masks)
    return stacked.max(axis=0, keepdims=True) if merge else stacked


def _draw(target: Target, from_height: int, from_width: int, height: int, width: int) -> np.ndarray:
    if isinstance(target, dict):
        mask = coco.decode(target)
        if mask.shape != (height, width):
            raise UserError(f"an RLE of {mask.shape[0]}x{mask.shape[1]} cannot be laid on a picture of {height}x{width}")
        return mask
    scale = (width / from_width, height / from_height)
    polygons = [[v * scale[i % 2] for i, v in enumerate(polygon)] for polygon in target]
    return coco.decode(coco.merge(coco.frPyObjects(polygons, height, width)))


def image_groups(samples: list[Sample]) -> list[list[int]]:
    """Indices of the samples that share a picture, in order of first appearance."""
    groups: dict[Path, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.image_path, []).append(i)
    return list(groups.values())
