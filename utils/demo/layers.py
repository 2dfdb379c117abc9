"""Pictures and masks as a browser takes them: inside the page, so that none lies in a file that others could fetch."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from model.masks import MASK_COLOURS

SHOWN = 1600  # pixels of the longer side on the page; downloads have the picture's own size
QUALITY = 88


def data_url(picture: Image.Image, kind: str) -> str:
    """A picture as an address that holds it; `kind` is JPEG or PNG."""
    file = BytesIO()
    picture.save(file, kind, **({"quality": QUALITY} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def preview(pixels: np.ndarray, longer: int = SHOWN) -> str:
    """uint8[H, W, 3] as a JPEG of at most `longer` pixels a side."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((longer, longer), Image.Resampling.LANCZOS, reducing_gap=2)
    return data_url(picture, "JPEG")


def mask_file(mask: np.ndarray) -> str:
    """bool[H, W] as a PNG of its own size, white where it is set."""
    return data_url(Image.fromarray(mask), "PNG")


def layers(mask: np.ndarray, colour: tuple[int, int, int], longer: int = SHOWN) -> tuple[str, str]:
    """bool[H, W] as two PNGs to lay over a preview: what is inside in a colour, and its outline.

    Two, since a reader fades what is inside and wants to see the outline all the same.
    """
    height, width = mask.shape
    scale = min(1.0, longer / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) if scale < 1 else mask
    outlines, _ = cv2.findContours(small.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    line = cv2.drawContours(np.zeros(small.shape, np.uint8), outlines, -1, 1, max(1, round(max(small.shape) / 400)))
    return _in_colour(small, colour), _in_colour(line.astype(bool), colour)


def _in_colour(mask: np.ndarray, colour: tuple[int, int, int]) -> str:
    """bool[H, W] as a PNG of that colour, transparent where it is not set."""
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, *colour])
    picture.info["transparency"] = bytes([0, 255])
    return data_url(picture, "PNG")


def free_colours(taken: set[tuple[int, int, int]], count: int) -> Iterator[tuple[int, int, int]]:
    """Colours for that many masks: those that are not taken first, then all of them again."""
    order = [colour for colour in MASK_COLOURS if colour not in taken] + list(MASK_COLOURS)
    return (order[number % len(order)] for number in range(count))
