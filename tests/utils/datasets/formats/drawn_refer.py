"""Small sets in the layouts of the REFER family: pictures of 40x30, refs with sentences, objects."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HEIGHT, WIDTH = 30, 40
SQUARE = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]  # 100 pixels
BESIDE = [20.0, 5.0, 30.0, 5.0, 30.0, 10.0, 20.0, 10.0]  # 50 pixels
ACROSS = [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]  # 100 pixels, 25 of them SQUARE's


def ref(
    number: int, split: str | None, *sentences: str, image: int = 1, ann: Any = None, **fields: Any
) -> dict[str, Any]:
    """A ref whose sentences have the ids 10 * number, 10 * number + 1, …; its object is `number`, if none is named."""
    asked = [
        {"sent_id": 10 * number + i, "sent": text, "raw": text.upper() + "!", "tokens": text.split()}
        for i, text in enumerate(sentences or ("the left car",))
    ]
    return {
        "ref_id": number,
        "ann_id": number if ann is None else ann,
        "image_id": image,
        "category_id": 3,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",  # no picture's name, as in the published files
        "split": split,
        "sent_ids": [one["sent_id"] for one in asked],
        "sentences": asked,
        **fields,
    }


def annotation(number: int, segmentation: Any = None, image: int = 1, **fields: Any) -> dict[str, Any]:
    """An object; a square, if nothing else is said."""
    outline = [SQUARE] if segmentation is None else segmentation
    known = {"id": number, "image_id": image, "category_id": 3, "bbox": [5, 5, 10, 10], "area": 100.0, "iscrowd": 0}
    return {**known, "segmentation": outline, **fields}


def write_set(
    root: Path, refs_file: str, pictures: str, refs: list[Any], annotations: list[Any], images: tuple[int, ...] = (1, 2)
) -> Path:
    """A set with its pictures; the root."""
    file = root / refs_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(json.dumps(refs).encode() if file.suffix == ".json" else pickle.dumps(refs, 2))
    (root / pictures).mkdir(parents=True, exist_ok=True)
    listed = []
    for number in images:
        name = f"COCO_train2014_{number:012d}.jpg"
        cv2.imwrite(str(root / pictures / name), np.full((HEIGHT, WIDTH, 3), 60 * number, np.uint8))
        listed.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    instances = {"images": listed, "annotations": annotations, "categories": [{"id": 3, "name": "car"}]}
    (file.parent / "instances.json").write_text(json.dumps(instances))
    return root
