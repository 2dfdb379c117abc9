"""Where masks are compared: in the picture's own pixels, or as official evaluations bring them to a common size.

A box is what some benchmarks annotate; a mask is then scored by the box around it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from model.masks import encode_mask

RLE = dict[str, Any]
PICTURE, SQUARE, LETTERBOX, BOX, GRID = "picture", "square480", "letterbox1024", "box", "box_grid"
CANVASES = (PICTURE, SQUARE, LETTERBOX, BOX, GRID)
SQUARE_SIDE = 480  # LAVT, RMSIN: picture and truth are stretched to it, the truth by its nearest pixel
LETTERBOX_SIDE = 1024  # SegEarth-R1: the longer side becomes this; padding counts nowhere
GRID_CELLS = 100  # VRSBench: coordinates are whole percents, and both ends of a side count


def canvas_size(size: tuple[int, int], canvas: str) -> tuple[int, int]:
    """(height, width) in pixels of the canvas of a picture of `size`.

    Raises:
        ValueError: there is no such canvas.
    """
    if canvas not in CANVASES:
        raise ValueError(f"masks are compared on one of {', '.join(CANVASES)}, not on {canvas!r}")
    if canvas == SQUARE:
        return SQUARE_SIDE, SQUARE_SIDE
    if canvas == LETTERBOX:
        scale = LETTERBOX_SIDE / max(size)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return (GRID_CELLS + 1, GRID_CELLS + 1) if canvas == GRID else size


def on_canvas(masks: list[RLE], canvas: str) -> list[RLE]:
    """Masks on a canvas; resized ones by their nearest pixel, so that a mask of the canvas' size stays as it is.

    Args:
        masks: COCO RLEs in a picture's size.
        canvas: one of CANVASES.

    Raises:
        ValueError: there is no such canvas.
    """
    if canvas == PICTURE or not masks:
        return masks
    height, width = canvas_size(tuple(masks[0]["size"]), canvas)
    if canvas in (BOX, GRID):
        return [_box(mask, canvas == GRID) for mask in masks]
    return [
        encode_mask(cv2.resize(coco.decode(mask), (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
        for mask in masks
    ]


def _box(mask: RLE, grid: bool) -> RLE:
    """The box around a mask, filled; on the grid from the cell of its first edge to that of its last, both included."""
    height, width = mask["size"]
    x, y, w, h = (round(float(value)) for value in coco.toBbox(mask))
    drawn = np.zeros(canvas_size((height, width), GRID if grid else BOX), np.uint8)
    if not (w and h):
        return encode_mask(drawn)
    if grid:
        left, right = (round(GRID_CELLS * edge / width) for edge in (x, x + w))
        top, bottom = (round(GRID_CELLS * edge / height) for edge in (y, y + h))
        drawn[top : bottom + 1, left : right + 1] = 1
    else:
        drawn[y : y + h, x : x + w] = 1
    return encode_mask(drawn)
