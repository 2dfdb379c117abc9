"""Samples: one question about one photograph, with the masks that answer it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from model.masks import Polygon, polygons_rle
from utils.runtime.errors import UserError

Target = tuple[Polygon, ...] | dict[str, Any]  # polygons whose union is meant, or a COCO RLE


Flip = tuple[bool, bool]  # left to right, top to bottom


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
        mirror: how picture and targets are turned when they are read (`utils.datasets.loading.flips`).
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
    mirror: Flip = (False, False)


def target_masks(sample: Sample, height: int, width: int, merge: bool = False) -> np.ndarray:
    """The targets as masks, drawn by pycocotools.

    Args:
        sample: its polygons are scaled when the picture has another size than the labels' frame.
        height: of the picture in pixels.
        width: likewise.
        merge: one mask, the union of all targets.

    Returns:
        uint8[K, height, width] of 0 and 1, K = 1 with `merge`; K is 0 where there are no targets

    Raises:
        BadRecord: an RLE was made for another frame than the sample names.
    """
    masks = [_draw(sample, target, height, width) for target in sample.targets]
    if not masks:
        return np.zeros((0, height, width), np.uint8)
    stacked = np.stack(masks)
    return stacked.max(axis=0, keepdims=True) if merge else stacked


def _draw(sample: Sample, target: Target, height: int, width: int) -> np.ndarray:
    if not isinstance(target, dict):
        return coco.decode(polygons_rle(target, (sample.height, sample.width), (height, width)))
    if tuple(target["size"]) != (sample.height, sample.width):
        made, named = target["size"], (sample.height, sample.width)
        raise BadRecord(
            f"{sample.dataset} record {sample.record_id!r}: an RLE of {made[1]}x{made[0]} pixels in labels "
            f"of a frame of {named[1]}x{named[0]}"
        )
    # Nearest keeps 0 and 1, and leaves a mask of the right size as it is.
    return cv2.resize(coco.decode(target), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def image_groups(samples: list[Sample]) -> list[list[int]]:
    """Indices of the samples that share a picture, in order of first appearance."""
    groups: dict[Path, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.image_path, []).append(i)
    return list(groups.values())
