"""Small pictures and masks for data sets' folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, the last two outside


def save_picture(path: Path, size: tuple[int, int] = (30, 40), orientation: int | None = None) -> None:
    """A grey picture of (height, width), with an orientation tag if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(np.full((*size, 3), 128, np.uint8)).save(path, exif=exif)


def boxed(box: Box | None, size: tuple[int, int] = (30, 40), value: int = 1) -> np.ndarray:
    """uint8[H, W] of `value` in a box and 0 elsewhere."""
    mask = np.zeros(size, np.uint8)
    if box:
        mask[box[1] : box[3], box[0] : box[2]] = value
    return mask


def save_mask(path: Path, mask: np.ndarray) -> None:
    """uint8[H, W] as a greyscale picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
