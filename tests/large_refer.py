"""Load a set of RefCOCO's size: `python tests/large_refer.py FOLDER` (250 MB of disk).

Writes 17,000 pictures of one grey, 100,000 objects with polygons of 20 to 60 points, and 42,000 refs with 120,000
sentences; then loads the training split, and the validation split after it, in a fresh process on one core, and prints
seconds and memory. Not part of the suite.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from utils.datasets.registry import load_dataset  # noqa: E402

PICTURES, OBJECTS, REFS, SENTENCES, VALIDATION = 17_000, 100_000, 42_000, 120_000, 1_500
SIZES = ((480, 640), (640, 480), (427, 640))
PICTURE_FOLDER = "images/mscoco/images/train2014"
WORDS = "left right man woman car nearest second white shirt dog chair in the of behind front red far bottom".split()
SECONDS, BYTES = 15, 1.5e9  # what the training split may take


def outline(generator: np.random.Generator, height: int, width: int) -> list[float]:
    """A shape around a point, its coordinates with two decimals as COCO's."""
    angles = np.linspace(0, 2 * np.pi, int(generator.integers(20, 61)), endpoint=False)
    radius = generator.uniform(20, 100) * generator.uniform(0.8, 1.2, len(angles))
    x = generator.uniform(100, width - 100) + radius * np.cos(angles)
    y = generator.uniform(100, height - 100) + radius * np.sin(angles)
    return np.stack([x.clip(0, width), y.clip(0, height)], axis=1).round(2).ravel().tolist()


def write_pictures(folder: Path) -> list[dict[str, Any]]:
    """The pictures; gives the table of them."""
    folder.mkdir(parents=True)
    jpegs = [cv2.imencode(".jpg", np.full((*size, 3), 127, np.uint8))[1].tobytes() for size in SIZES]
    images = []
    for number in range(1, PICTURES + 1):
        (height, width), name = SIZES[number % 3], f"COCO_train2014_{number:012d}.jpg"
        (folder / name).write_bytes(jpegs[number % 3])
        images.append({"license": 1, "id": number, "file_name": name, "height": height, "width": width})
    return images


def write_set(root: Path) -> None:
    """The whole set; every seventh object is in two parts."""
    generator, chosen = np.random.default_rng(0), random.Random(0)
    images = write_pictures(root / PICTURE_FOLDER)
    objects = []
    for number in range(1, OBJECTS + 1):
        image = images[(number - 1) % PICTURES]
        shape = [outline(generator, image["height"], image["width"]) for _ in range(2 if number % 7 == 0 else 1)]
        known = {"id": number, "image_id": image["id"], "category_id": 1, "area": 9999.99, "iscrowd": 0}
        objects.append(known | {"segmentation": shape, "bbox": [1.0, 2.0, 100.5, 99.5]})
    refs, asked = [], 0
    for number in range(1, REFS + VALIDATION + 1):
        count = (SENTENCES - asked) // (REFS - number + 1) if number <= REFS else 3
        asked += count
        texts = [" ".join(chosen.choices(WORDS, k=chosen.randint(2, 8))) for _ in range(count)]
        sentences = [
            {"sent_id": 10 * number + i, "sent": text, "raw": text.title(), "tokens": text.split()}
            for i, text in enumerate(texts)
        ]
        image_id = (number - 1) % PICTURES + 1
        ref = {"ref_id": number, "ann_id": number, "image_id": image_id, "category_id": 1, "sentences": sentences}
        ref |= {"file_name": f"{number}.jpg", "sent_ids": [one["sent_id"] for one in sentences]}
        refs.append(ref | {"split": "train" if number <= REFS else "val"})
    (root / "refcoco").mkdir()
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    instances = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "person"}]}
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))


def measure(root: Path) -> int:
    """Load both splits; the status."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    idle, status = peak(), 0
    for split in ("train", "val"):
        wall, cpu = time.perf_counter(), time.process_time()
        samples = load_dataset(root, split, "refcoco")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"{split}: {len(samples):,} sentences in {cpu:.1f} s of processor time ({wall:.1f} s), at most "
            f"{peak() / 1e9:.2f} GB of memory, {idle / 1e9:.2f} of them before"
        )
        status |= cpu > SECONDS or peak() > BYTES
    return status


def peak() -> int:
    """The most memory that this process took, in bytes; getrusage would count the process that started it too."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024


def main() -> int:
    root = Path(sys.argv[1])
    if "--measure" in sys.argv:
        return measure(root)
    if not root.exists():
        write_set(root)
    return subprocess.run([sys.executable, __file__, str(root), "--measure"]).returncode


if __name__ == "__main__":
    sys.exit(main())
