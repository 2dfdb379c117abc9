"""Small folders of one's own pictures, drawn on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (60, 80)  # height and width


def box(left: int, top: int, right: int, bottom: int) -> list[int]:
    """A rectangle's polygon."""
    return [left, top, right, top, right, bottom, left, bottom]


def draw_picture(path: Path, boxes: dict[tuple[int, int, int, int], tuple[int, int, int]] | None = None) -> None:
    """A grey picture with boxes (left, top, right, bottom) in colours."""
    pixels = np.full((*SIZE, 3), 120, np.uint8)
    for (left, top, right, bottom), colour in (boxes or {}).items():
        pixels[top:bottom, left:right] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def annotation(number: int, image: int, segmentation: Any, **fields: Any) -> dict[str, Any]:
    """An annotation of category 1."""
    return {"id": number, "image_id": image, "category_id": 1, "segmentation": segmentation, "iscrowd": 0, **fields}


def write_coco(
    file: Path, images: dict[int, str | dict], annotations: list[dict], categories: tuple = ("roof",)
) -> None:
    """A COCO file; an image is its name or its fields."""
    rows = [
        {"id": number, "height": SIZE[0], "width": SIZE[1]} | ({"file_name": one} if isinstance(one, str) else one)
        for number, one in images.items()
    ]
    named = [{"id": i, "name": name} for i, name in enumerate(categories, start=1)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": rows, "annotations": annotations, "categories": named}))
