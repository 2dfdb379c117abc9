"""Writes the embedded synthetic data set, DRSeg-mini, in DRSeg's published layout.

    python -m utils.mini_drseg --out data/DRSeg-mini

Drone pictures of streets, drawn from geometry, and questions about them, each with one thing as
its target. A group of three records, one a reasoning type, shares a picture. Each picture follows
from (seed, split, number) alone: the same on every run and for any number of workers.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.datasets.drseg import REASONING_TYPES
from utils.mini_drseg.planner import plan_scene
from utils.mini_drseg.questions import Candidate, choose_questions
from utils.mini_drseg.render import render
from utils.mini_drseg.scene import Camera
from utils.mini_drseg.visibility import visible_things
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_folder, exclusive_lock

VERSION = 1  # raise it whenever the same seed gives other data
SPLITS = ("train", "val", "test")
DEFAULT_COUNTS = {"train": 2000, "val": 200, "test": 300}
GROUP = len(REASONING_TYPES)  # records that share a picture
ATTEMPTS = 200  # scenes tried until one allows a question of each type
JPEG_QUALITY = (84, 92)

logger = logging.getLogger(__name__)


def generate(out: Path, counts: dict[str, int], seed: int = 0, workers: int = 2, overwrite: bool = False) -> None:
    """Write the data set to `out`, whole or not at all.

    Args:
        counts: records by split, of "train", "val" and "test".
        overwrite: replace an `out` that has content.

    Raises:
        UserError: `out` has content and `overwrite` is off, or a setting is out of range.
    """
    _check(out, counts, seed, workers, overwrite)
    try:
        with atomic_folder(out) as scratch:
            for split in SPLITS:
                _write_split(scratch, split, counts.get(split, 0), seed, workers)
            settings = json.dumps(describe(counts, seed), indent=1)
            (scratch / "dataset.json").write_text(settings + "\n")
    except OSError as error:
        raise UserError(f"{out}: the data set cannot be written there ({error}); name another folder") from error


def describe(counts: dict[str, int], seed: int) -> dict:
    """What `dataset.json` holds: equal contents mean equal data."""
    return {
        "name": "DRSeg-mini",
        "version": VERSION,
        "seed": seed,
        "counts": {split: counts.get(split, 0) for split in SPLITS},
    }


def is_current(out: Path) -> bool:
    """Whether `out` holds a set that this version drew, of whatever size.

    Raises:
        UserError: it holds one of another version, or something else.
    """
    if not out.exists():
        return False
    try:
        found = json.loads((out / "dataset.json").read_text())
        version = (found["name"], found["version"])
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    if version != ("DRSeg-mini", VERSION):
        raise UserError(
            f"{out} is not DRSeg-mini of version {VERSION}; "
            f"`python -m utils.mini_drseg --out {out} --overwrite` draws it anew"
        )
    return True


@contextmanager
def drawing(out: Path) -> Iterator[None]:
    """One process at a time: a second one waits for the first.

    Raises:
        UserError: nothing can be written beside `out`.
    """
    try:
        with exclusive_lock(out.with_name(f".{out.name}.drawing"), wait=True):
            yield
    except OSError as error:
        raise UserError(f"{out}: cannot be written there ({error}); name another folder") from error


def _check(out: Path, counts: dict[str, int], seed: int, workers: int, overwrite: bool) -> None:
    for split, count in counts.items():
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}; use {', '.join(SPLITS)}")
        if count < 0:
            raise UserError(f"--{split} {count}: a number of records must not be negative")
    if not any(counts.values()):
        raise UserError("no records are asked for; give --train, --val or --test a number above 0")
    if workers < 1:
        raise UserError(f"--workers {workers}: at least 1 is needed")
    if seed < 0:
        raise UserError(f"--seed {seed}: it must not be negative")
    if out.is_file():
        raise UserError(f"{out} is a file; name a folder to write to")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise UserError(f"{out} exists and is not empty; --overwrite replaces it")


def _write_split(root: Path, split: str, count: int, seed: int, workers: int) -> None:
    """Write a split's pictures and its labels file."""
    images = root / "CODrone" / f"DR{split}"
    labels = root / "labels"
    images.mkdir(parents=True)
    labels.mkdir(exist_ok=True)
    groups = [(start // GROUP, min(GROUP, count - start)) for start in range(0, count, GROUP)]
    work = partial(_write_group, images=images, split=split, seed=seed)
    records = []
    with tqdm(total=len(groups), desc=f"DRSeg-mini {split}", unit="picture") as bar:
        for group in _map(work, groups, workers):
            records += group
            bar.update()
    (labels / f"DRSeg_{split}.json").write_text(json.dumps(records, indent=1) + "\n")


def _map(work, groups, workers):
    """Results of `work` in the order of `groups`."""
    if workers == 1 or len(groups) < 2:
        yield from map(work, groups)
        return
    with get_context("spawn").Pool(workers, initializer=_single_thread) as pool:
        yield from pool.imap(work, groups, chunksize=4)


def _single_thread() -> None:
    cv2.setNumThreads(1)  # the pictures are spread over processes instead


def _write_group(group: tuple[int, int], images: Path, split: str, seed: int) -> list[dict]:
    """Draw picture `number` of a split, write it and give its records."""
    number, size = group
    image, camera, questions, quality = draw_group(seed, split, number)
    name = f"mini_{split}_{number:04d}"
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if not cv2.imwrite(str(images / f"{name}.jpg"), image[..., ::-1], options):
        raise OSError(f"OpenCV could not write {images / name}.jpg")
    return [_record(name, camera, *question) for question in questions[:size]]


def draw_group(seed: int, split: str, number: int) -> tuple[np.ndarray, Camera, list[tuple[str, Candidate, str]], int]:
    """Draw the picture `number` of a split and its questions.

    Returns:
        The picture, uint8[H, W, 3] RGB; its camera; a (reasoning type, candidate, question) for
        each type; the JPEG quality to write it with.
    """
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, SPLITS.index(split), number, attempt])
        scene = plan_scene(rng)
        picture = render(scene, rng)
        chosen = choose_questions(visible_things(scene, picture), scene.camera, REASONING_TYPES, rng)
        if chosen:
            texts = [str(rng.choice(c.questions)) for c in chosen]
            quality = int(rng.integers(*JPEG_QUALITY))
            questions = list(zip(REASONING_TYPES, chosen, texts, strict=True))
            return picture.image, scene.camera, questions, quality
    raise RuntimeError(f"no scene for {split} {number} with seed {seed} in {ATTEMPTS} attempts")


def _record(name: str, camera: Camera, kind: str, candidate: Candidate, question: str) -> dict:
    """One record in DRSeg's layout."""
    answer = f"<think>{candidate.think}</think><answer>{candidate.answer}</answer>"
    return {
        "id": name,
        "height": camera.height,
        "width": camera.width,
        "altitude": int(camera.altitude),
        "ann_list": [{"segmentation": candidate.target.polygons}],
        "questions": [question],
        "answers": [answer],
        "reasoning_types": [kind],
    }


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Write the embedded synthetic data set.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    for split, count in DEFAULT_COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"{split} records")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    parser.add_argument("--if-missing", action="store_true", help="do nothing where --out holds the set already")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    counts = {split: getattr(args, split) for split in SPLITS}
    with drawing(args.out):  # train.sh and eval.sh may want the same set at the same time
        if args.if_missing and is_current(args.out):
            return
        generate(args.out, counts, args.seed, args.workers, args.overwrite)
    logger.info("wrote %s", args.out)
