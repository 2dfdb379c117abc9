"""What infer.py writes about a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco

from model.masks import box_of, confidence, encode_mask


def describe(picture: Path, question: str, text: str, logits: torch.Tensor, union: np.ndarray) -> dict:
    """The JSON line of one picture; boxes are [x, y, width, height] in pixels."""
    masks = []
    for one in logits:
        rle = encode_mask((one > 0).cpu().numpy())
        masks.append({"box": box_of(rle), "area": int(coco.area(rle)), "confidence": confidence(one), "rle": rle})
    rle = encode_mask(union)
    return {
        "picture": str(picture),
        "question": question,
        "text": text,
        "box": box_of(rle),
        "area": int(union.sum()),
        "area_fraction": float(union.mean()),
        "confidence": confidence(logits.amax(dim=0)) if len(logits) else 0.0,
        "rle": rle,
        "masks": masks,
    }


def distinct_names(pictures: list[Path]) -> list[str]:
    """A file name for each picture's results: its stem, numbered where several share one."""
    names: list[str] = []
    for picture in pictures:
        name, number = picture.stem, 2
        while name in names:
            name, number = f"{picture.stem}-{number}", number + 1
        names.append(name)
    return names
