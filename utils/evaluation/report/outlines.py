"""Masks as small SVG paths, to be drawn over a thumbnail of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from utils.datasets.base import Sample, target_masks

VIEW = 1024  # units of a path on the longer side of its picture
COARSEST = VIEW / 128  # simplification beyond which small parts are left out instead


@dataclass(frozen=True)
class OutlineTask:
    """The masks of a record to outline.

    Args:
        sample: the record.
        merged: its targets are one, their union.
        predicted: COCO RLEs.
        longest: characters of a path.
    """

    sample: Sample
    merged: bool
    predicted: tuple[dict[str, Any], ...]
    longest: int


@dataclass(frozen=True)
class Outlines:
    """Paths of a record's targets and predicted masks."""

    targets: tuple[str, ...]
    predicted: tuple[str, ...]


def record_outlines(task: OutlineTask) -> Outlines:
    """The paths of a record's masks."""
    targets = _targets(task.sample, *task.sample.size, task.merged)
    return Outlines(
        tuple(outline(mask, task.longest) for mask in targets),
        tuple(outline(coco.decode(rle), task.longest) for rle in task.predicted),
    )


def _targets(sample: Sample, height: int, width: int, merged: bool) -> np.ndarray:
    """bool[K, h, w], drawn no larger than paths are exact, unless a small target would be lost."""
    scale = min(1.0, VIEW / max(height, width))
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    masks = target_masks(sample, *small, merge=merged) == 1
    if scale < 1 and not masks.any(axis=(1, 2)).all():
        return target_masks(sample, height, width, merge=merged) == 1
    return masks


def view_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of the coordinates in which a picture's paths are given."""
    scale = VIEW / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def outline(mask: np.ndarray, longest: int = 4000) -> str:
    """A mask's contours as an SVG path, to be filled by the even-odd rule; "" for an empty mask.

    Args:
        mask: bool or uint8[H, W], foreground where not zero.
        longest: characters of the path; a longer one is simplified, then loses its smallest parts.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return ""
    scale = VIEW / max(mask.shape)
    top, left = rows[0], columns[0]
    crop = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1] != 0)
    size = tuple(max(1, round(side * scale)) for side in reversed(crop.shape))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    share = cv2.resize(crop.astype(np.float32), size, interpolation=how)
    inside = share >= 0.5 if (share >= 0.5).any() else share > 0
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    contours = sorted(contours, key=cv2.contourArea, reverse=True)
    corner = (round(left * scale), round(top * scale))
    tolerance = max(1.0, 0.75 * scale)  # the steps of an enlarged pixel are no shape
    while True:
        parts = [_part(cv2.approxPolyDP(contour, tolerance, True)[:, 0] + corner) for contour in contours]
        fits = sum(map(len, parts)) <= longest
        if fits or (tolerance > COARSEST and len(parts[0]) <= longest) or tolerance > VIEW:
            return _fitting(parts, longest)
        tolerance *= 1.6


def _part(points: np.ndarray) -> str:
    """int[N, 2] -> a closed part of a path, in steps, which are shorter to write than places."""
    steps = np.diff(points, axis=0).ravel()
    line = "".join(f"{step}" if step < 0 else f" {step}" for step in steps.tolist()).lstrip()
    return f"M{points[0, 0]} {points[0, 1]}" + (f"l{line}z" if line else "z")


def _fitting(parts: list[str], longest: int) -> str:
    """The largest part, and of the others, largest first, those that fit."""
    kept, length = parts[:1], len(parts[0])
    for part in parts[1:]:
        if length + len(part) > longest:
            break
        kept.append(part)
        length += len(part)
    return "".join(kept)
