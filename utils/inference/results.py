"""The results of infer.py for a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from model.masks import encode_mask, mask_box
from model.segmenter import Segmentation


def answer_record(picture: Path, question: str, answer: Segmentation) -> dict[str, Any]:
    """The JSON line of one picture; boxes are [x, y, width, height] in pixels, null where a mask is empty."""
    masks = []
    for mask, score in zip(answer.masks, answer.scores, strict=True):
        rle = encode_mask(mask)
        masks.append({"box": mask_box(rle), "area": int(coco.area(rle)), "confidence": float(score), "rle": rle})
    union = answer.union
    rle = encode_mask(union)
    return {
        "picture": str(picture),
        "question": question,
        "text": answer.text,
        "box": mask_box(rle),
        "area": int(union.sum()),
        "area_fraction": float(union.mean()),
        "confidence": answer.union_score,
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
