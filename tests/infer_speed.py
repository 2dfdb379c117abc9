"""How fast infer.py is: `python tests/infer_speed.py FOLDER [--other CHECKOUT]`; not a test, about ten minutes.

Draws 500 pictures of 1280 x 720 into FOLDER, if they are not there, and asks one question about each with PixDLM/mini,
with this checkout and, in turns, with another one, which may be older: its infer.py is given the pictures one by one.
Then ten questions about one picture beside one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.training import CHECKOUT
from utils.mini_drseg.generate import REASONING_TYPES, generate

QUESTION = "Which car is red?"
OTHERS = [f"Which car is number {number}?" for number in range(9)]


def draw(folder: Path, count: int) -> list[Path]:
    """So many pictures of 1280 x 720, from drawn scenes."""
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    if not all(path.exists() for path in paths):
        with tempfile.TemporaryDirectory() as scratch:
            generate(Path(scratch) / "mini", {"train": 96, "val": 0, "test": 0}, workers=2, kinds=REASONING_TYPES)
            scenes = sorted(Path(scratch).rglob("*.jpg"))
            folder.mkdir(parents=True, exist_ok=True)
            for number, path in enumerate(paths):
                with Image.open(scenes[number % len(scenes)]) as scene:
                    scene.convert("RGB").resize((1280, 720), Image.Resampling.BICUBIC).save(path, quality=92)
    return paths


def seconds(checkout: Path, pictures: list[Path], questions: list[str], *options: str) -> float:
    """How long infer.py of a checkout takes from its start to its end."""
    out = Path(tempfile.mkdtemp())
    asked = [part for question in questions for part in ("--ask", question)]
    line = [sys.executable, "infer.py", "--model", CHECKOUT / "PixDLM/mini", "--device", "cpu", "--out", out / "o"]
    begun = time.perf_counter()
    subprocess.run(
        [*map(str, line), *asked, *options, *map(str, pictures)],
        cwd=checkout, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    taken = time.perf_counter() - begun
    assert len((out / "o/answers.jsonl").read_text().splitlines()) == len(pictures) * len(questions)
    shutil.rmtree(out)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--other", type=Path, help="Another checkout, to compare with.")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    args, options = parser.parse_known_args()
    pictures = draw(args.folder.resolve(), args.pictures)
    found: dict[str, list[float]] = {"start": [], "here": [], "other": [], "ten questions": []}
    for _ in range(args.rounds):
        found["start"].append(seconds(CHECKOUT, pictures[:1], [QUESTION], *options))
        found["ten questions"].append(seconds(CHECKOUT, pictures[:1], [QUESTION, *OTHERS], *options))
        found["here"].append(seconds(CHECKOUT, pictures, [QUESTION], *options))
        if args.other:
            found["other"].append(seconds(args.other, pictures, [QUESTION]))
    middle = {name: round(statistics.median(taken), 2) for name, taken in found.items() if taken}
    rates = {name: round(args.pictures / middle[name], 2) for name in ("here", "other") if name in middle}
    print(json.dumps({"median seconds": middle, "pictures a second": rates, "all": found}, indent=1))


if __name__ == "__main__":
    main()
