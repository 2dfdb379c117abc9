"""Masks that a data set keeps as pictures, read into run lengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.inputs.picture_files import opened_picture
from model.masks import encode_mask
from utils.datasets.base import BadRecord
from utils.runtime.errors import UserError


@dataclass(frozen=True)
class LabelMask:
    """A mask picture.

    Args:
        rle: COCO RLE whose counts are text, small enough to keep that of every sample.
        pixels: of the foreground.
        other: pixels that are neither 0 nor a value of the foreground; they count as background.
    """

    rle: dict[str, Any]
    pixels: int
    other: int

    @property
    def frame(self) -> tuple[int, int]:
        """(height, width) in pixels; `SplitReader.photograph` checks the picture's proportions against it."""
        height, width = self.rle["size"]
        return height, width


def read_label_mask(where: str, path: Path, foreground: tuple[int, ...] | None = None) -> LabelMask:
    """A mask picture of any kind, read in grey: uint8[H, W], or of 16 bits where it has them.

    Args:
        where: file, position and id of the record.
        path: of the picture.
        foreground: the values that mean 1; None for all but 0.

    Raises:
        BadRecord: it is missing, or cannot be read.
    """
    try:
        with opened_picture(path) as picture:
            values = grey_values(picture)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BadRecord(f"{where}: its mask {path} is missing") from error
        raise BadRecord(f"{where}: its mask {error}") from error
    inside = values != 0 if foreground is None else np.isin(values, foreground)
    pixels = int(np.count_nonzero(inside))
    return LabelMask(encode_mask(inside), pixels, int(np.count_nonzero(values)) - pixels)


def grey_values(picture: Image.Image) -> np.ndarray:
    """[H, W] of the pixels as stored; colours and palettes as their luminance, which is what OpenCV's greyscale
    reading gives the published loaders."""
    if picture.mode in ("L", "I", "F") or picture.mode.startswith("I;16"):
        return np.asarray(picture)
    return np.asarray(picture.convert("L"))
