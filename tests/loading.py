"""Load large frames as training does: `python tests/loading.py FOLDER` (50 MB of disk, three minutes).

Draws 3840x2160 JPEG frames with labels into FOLDER, reads them through `Collator` and `DataLoader` at the sizes
of `native` for one epoch, and prints for each tenth of it frames a second and the most memory of all processes
together; at the end also the processor's time, which depends less on what else the machine does. `--whole`
decodes every frame whole, for comparison. Exit status 1 where memory grows over the epoch. Not part of the suite.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.inputs import images
from model.language.tokens import PixTokenizer
from model.presets import native_config
from tests.training import CHECKOUT
from utils.datasets.loading.collate import Collator
from utils.datasets.loading.sampler import TrainSampler
from utils.datasets.registry import load_dataset
from utils.runtime.errors import run_main

HEIGHT, WIDTH = 2160, 3840
DRAWN = 20  # different pictures; further frames are other names of them, and are decoded for themselves
TENTHS = 10
GROWTH = 1.25  # of the median tenth from one half of the epoch to the other; the slack of workers' heaps varies by 0.1
EVERY = 0.2  # seconds between two looks at the memory


def draw_frames(root: Path, count: int) -> None:
    """A training split of `count` frames with one question each."""
    folder = root / "CODrone" / "DRtrain"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    records = []
    for number in tqdm(range(count), desc="drawing", unit="frame", leave=False):
        file = folder / f"frame_{number}.jpg"
        if not file.exists():
            if number < DRAWN:
                cv2.imwrite(str(file), textured(number), [cv2.IMWRITE_JPEG_QUALITY, 90])
            else:
                os.link(folder / f"frame_{number % DRAWN}.jpg", file)
        records.append(record(number))
    (root / "labels" / "DRSeg_train.json").write_text(json.dumps(records))


def textured(seed: int) -> np.ndarray:
    """uint8[2160, 3840, 3] with detail of every size, less of it the finer, as photographs have it."""
    chance = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for step in (512, 128, 32, 8, 4, 2, 1):
        grid = chance.standard_normal((-(-HEIGHT // step), -(-WIDTH // step), 3)).astype(np.float32)
        picture += 3 * (1 + np.log2(step)) * cv2.resize(grid, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)


def record(number: int) -> dict:
    """A question about a frame, and a target of twelve corners."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    x = 300 + number * 37 % (WIDTH - 600) + 150 * np.cos(angles)
    y = 300 + number * 23 % (HEIGHT - 600) + 90 * np.sin(angles)
    return {
        "id": f"frame_{number}",
        "height": HEIGHT,
        "width": WIDTH,
        "ann_list": [{"segmentation": np.stack([x, y], axis=1).ravel().round(1).tolist()}],
        "questions": [f"Which of the {number % 9 + 2} vehicles blocks the crossing?"],
        "answers": [None],
        "reasoning_types": ["scene"],
    }


class Memory:
    """The most memory of this process and its children together; what several share counts once."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def watch(self) -> None:
        while not self.ended.wait(EVERY):
            self.peak = max(self.peak, sum(proportional_mib(pid) for pid in processes()))

    def since_last(self) -> float:
        """MiB, since this was asked last."""
        peak, self.peak = self.peak, 0.0
        return peak


def processes() -> list[int]:
    """This process and its children."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    return [own, *map(int, children)]


def proportional_mib(pid: int) -> float:
    """Resident memory of a process, pages that n processes share counted as an n-th; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def load(root: Path, batch_size: int, workers: int) -> list[tuple[float, float]]:
    """Frames a second and MiB for each tenth of an epoch."""
    config = native_config()
    tokenizer = PixTokenizer(CHECKOUT / "PixDLM" / "mini", config.system_prompt)
    samples = load_dataset(root, "train")
    loader = DataLoader(
        samples,
        batch_sampler=TrainSampler(samples, batch_size, accumulation=1, seed=0),
        collate_fn=Collator(config, tokenizer, truncate=True),
        num_workers=workers,
    )
    ends = {round(len(loader) * (tenth + 1) / TENTHS) for tenth in range(TENTHS)}
    tenths, frames, since = [], 0, time.perf_counter()
    with Memory() as memory:
        for number, batch in enumerate(tqdm(loader, desc="loading", unit="batch", leave=False), start=1):
            frames += len(batch.clip_pixels)
            if number in ends:
                now = time.perf_counter()
                tenths.append((frames / (now - since), memory.since_last()))
                frames, since = 0, now
    return tenths


def processor_seconds() -> float:
    """Of this process and those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="decode every frame whole")
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw_frames(args.folder, args.frames)
    size = np.mean([file.stat().st_size for file in (args.folder / "CODrone" / "DRtrain").iterdir()])
    if args.whole:
        images.DRAFT_PIXELS = sys.maxsize
    started, used = time.perf_counter(), processor_seconds()
    tenths = load(args.folder, args.batch_size, args.workers)
    seconds, used = time.perf_counter() - started, processor_seconds() - used
    for number, (rate, memory) in enumerate(tenths, start=1):
        print(f"tenth {number:2d}: {rate:5.1f} frames/s, at most {memory:6.0f} MiB")
    print(
        f"{args.frames} frames of {WIDTH}x{HEIGHT} ({size / 1e6:.1f} MB) on {args.workers} workers, "
        f"{'whole' if args.whole else 'as small as native needs'}: {args.frames / seconds:.1f} frames/s, "
        f"{1000 * used / args.frames:.0f} ms of a processor each"
    )
    half = TENTHS // 2
    first, second = (np.median([memory for _, memory in part]) for part in (tenths[:half], tenths[half:]))
    print(f"memory from the first half of the epoch to the second: {second / first:.2f} times")
    return int(second > GROWTH * first)


if __name__ == "__main__":
    run_main(main)
