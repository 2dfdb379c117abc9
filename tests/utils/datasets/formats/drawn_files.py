"""Small pictures and label files for the tests of data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.masks import encode_mask


def draw_picture(path: Path, width: int = 40, height: int = 30) -> Path:
    """A grey picture; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 90, 90)).save(path)
    return path


def write_labels(path: Path, value: Any) -> Path:
    """A file of JSON; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def box_rle(left: int, top: int, right: int, bottom: int, width: int = 40, height: int = 30) -> dict[str, Any]:
    """Run lengths of a rectangle of whole pixels."""
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    return encode_mask(mask)


def box_points(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """Its corners as [[x, y], …]."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]
