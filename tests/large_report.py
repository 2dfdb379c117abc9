"""Measures a report of many records: `python tests/large_report.py FOLDER [RECORDS]`; about 600 MB for 10,000.

Prints the page's size, the seconds to write it, and the seconds until a headless Chromium has it usable.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.masks import encode_mask
from tests.browser import Browser, find_chromium
from utils.datasets.base import Sample
from utils.datasets.drseg import SPEC
from utils.evaluation.header import FORMAT
from utils.evaluation.report.page import write_report

HEIGHT, WIDTH, TEXTURES = 1080, 1920, 40
WORDS = "car bus truck left right nearest crossing roof tree shade waiting beside beyond river bridge".split()


def textures(folder: Path, generator: np.random.Generator) -> list[Path]:
    """Pictures with detail at every scale, as aerial photographs have."""
    paths = []
    for number in range(TEXTURES):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for level in range(2, 9):
            small = generator.normal(size=(HEIGHT >> level, WIDTH >> level, 3)).astype(np.float32)
            picture += cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * 1.6 ** (level - 2)
        paths.append(folder / f"texture{number}.jpg")
        cv2.imwrite(str(paths[-1]), np.clip(110 + 4 * picture, 0, 255).astype(np.uint8))
    return paths


def blob(generator: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    """float[N, 2]: a shape around a point."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    lengths = radius * generator.uniform(0.7, 1.3, len(angles))
    return centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]


def write_evaluation(folder: Path, count: int) -> list[Sample]:
    """An evaluation's files, and the samples of its data set; each record has a picture of its own."""
    generator = np.random.default_rng(0)
    pictures, samples = textures(folder, generator), []
    with open(folder / "scores.jsonl", "w") as scores, open(folder / "predictions.jsonl", "w") as predictions:
        predictions.write(json.dumps({"format": FORMAT}) + "\n")
        for number in range(count):
            name = f"frame_{number:05d}"
            path = folder / "frames" / f"{name}.jpg"
            path.symlink_to(pictures[number % TEXTURES])
            centre = generator.uniform((50, 50), (WIDTH - 50, HEIGHT - 50))
            radius = 10 ** generator.uniform(0.8, 2.4)
            target = tuple(blob(generator, centre, radius).ravel().tolist())
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.fillPoly(mask, [blob(generator, centre + radius / 3, radius).astype(np.int32)], 1)
            question = "Which " + " ".join(generator.choice(WORDS, 14)) + "?"
            groups: dict[str, Any] = {"reasoning_type": ["spatial", "scene", "attribute"][number % 3]}
            groups["altitude"] = 30 + number % 4 * 10
            frame = HEIGHT, WIDTH, "drseg", name, number, groups
            samples.append(Sample(path, question, None, ((target,),), *frame, key=name))
            iou, score = float(generator.beta(2, 1.5)), float(generator.beta(5, 2))
            pair = {"id": name, "picture": name, "target": 0, "mask": 0, "merged": False, "iou": iou}
            pair |= {"intersection": round(1000 * iou), "union": 1000}
            pair |= {"area": int(3 * radius**2), "pixels": HEIGHT * WIDTH, "score": score, "status": "ok"}
            scores.write(json.dumps({**pair, "groups": groups}) + "\n")
            text = "It is " + " ".join(generator.choice(WORDS, 40)) + ". [SEG0]"
            answer = {"id": name, "question": question, "text": text, "status": "ok", "masks": [encode_mask(mask)]}
            predictions.write(json.dumps(answer | {"scores": [score]}) + "\n")
    overall = {"count": count, "giou": 0.57, "ciou": 0.5}
    (folder / "metrics.json").write_text(json.dumps({"overall": overall, "by_target_size": {}}))
    return samples


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    (folder / "frames").mkdir(parents=True)
    samples = write_evaluation(folder, count)
    page = folder / "report.html"
    started = time.perf_counter()
    write_report(page, [folder], samples, SPEC)
    print(f"{count:,} records: {page.stat().st_size / 1e6:.1f} MB in {time.perf_counter() - started:.1f} s")
    program = find_chromium()
    if program:
        with tempfile.TemporaryDirectory() as profile:
            browser = Browser(program, Path(profile))
            try:
                print(f"usable after {browser.open(page.as_uri()):.2f} s")
                for sort in ("worst", "id"):
                    milliseconds = browser.run(
                        f"(() => {{ const start = performance.now(); location.hash = 'sort={sort}&text=bus';"
                        "return new Promise((done) => addEventListener('hashchange', () => requestAnimationFrame(() =>"
                        "setTimeout(() => done(performance.now() - start))), {once: true})); })()"
                    )
                    print(f"filtered, sorted by {sort} and shown in {milliseconds:.0f} ms")
                print("errors:", browser.errors)
            finally:
                browser.close()


if __name__ == "__main__":
    main()
