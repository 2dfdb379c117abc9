"""Thumbnails that together stay within a number of bytes."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from model.inputs.picture_files import decoded, opened_picture

SIDES = (64, 800)  # smallest and largest longer side in pixels
BYTES_A_PIXEL = 0.22  # of a detailed aerial photograph at the first quality
QUALITIES = (82, 72, 60, 48)


@dataclass(frozen=True)
class ThumbnailTask:
    """A picture to shrink.

    Args:
        path: of the picture.
        upright: its orientation tag is applied.
        most: bytes of the JPEG.
    """

    path: Path
    upright: bool
    most: int


def first_side(most: int) -> int:
    """The longer side at which a picture of 3:2 should take `most` bytes, within SIDES."""
    least, largest = SIDES
    return round(min(max(math.sqrt(1.5 * most / BYTES_A_PIXEL), least), largest))


def thumbnail(task: ThumbnailTask) -> str:
    """A picture as a JPEG of at most `task.most` bytes, in base64; never larger than the picture.

    Raises:
        UserError: the picture cannot be read.
    """
    side = first_side(task.most)
    pixels = _shrunk(task.path, task.upright, side)
    while True:
        for quality in QUALITIES:
            # OpenCV's order of channels is BGR
            _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            if len(data) <= task.most:
                return base64.b64encode(data).decode("ascii")
        if max(pixels.shape[:2]) <= SIDES[0] // 2:  # a JPEG's tables alone take 600 bytes
            return base64.b64encode(data).decode("ascii")
        pixels = _fit(pixels, round(max(pixels.shape[:2]) * 0.8))


def _shrunk(path: Path, upright: bool, side: int) -> np.ndarray:
    """uint8[h, w, 3], RGB, with a longer side of `side` at most."""
    with opened_picture(path) as picture:
        longer = max(picture.size)
        if longer > 2 * side:  # libjpeg decodes at a fraction of the size in a fraction of the time
            picture.draft(None, tuple(math.ceil(length * 2 * side / longer) for length in picture.size))
        return _fit(decoded(picture, upright), side)


def _fit(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
