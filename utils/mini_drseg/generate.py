"""Writes the embedded synthetic data set, DRSeg-mini, in DRSeg's published layout.

    python -m utils.mini_drseg --out data/DRSeg-mini

Drone pictures of streets, drawn from geometry, and questions about them. Three records, one for each reasoning type,
share a picture; each has one thing as its target. Beside them a picture has, where its scene allows it, a question that
several things answer, and two pictures in five have one that nothing answers. Each picture is determined by (seed,
split, number): it is the same on every run, for any number of workers, and whichever kinds of question are asked.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from utils.mini_drseg.other_questions import OtherQuestion, choose_other_questions
from utils.mini_drseg.planner import plan_scene
from utils.mini_drseg.questions import Candidate, choose_questions, place_sentence
from utils.mini_drseg.render import render
from utils.mini_drseg.scene import Camera
from utils.mini_drseg.visibility import VisibleThing, visible_things
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_folder, exclusive_lock
from utils.runtime.json_files import read_json
from utils.runtime.paths import has_content, is_file, through_links, working_place

VERSION = 3  # increase it whenever the same seed gives other data
SPLITS = ("train", "val", "test")
# DRSeg's, written out: utils.datasets imports torch and transformers, which each drawing process would wait for.
REASONING_TYPES = ("spatial", "attribute", "scene")
OTHER_KINDS = ("several", "none")  # questions with several targets, and without any
QUESTION_KINDS = (*REASONING_TYPES, *OTHER_KINDS)
DEFAULT_COUNTS = {"train": 2000, "val": 200, "test": 300}
RECORDS_PER_PICTURE = len(REASONING_TYPES)  # each a question of another type
MAX_ATTEMPTS = 200  # scenes drawn until one allows a question of each type
JPEG_QUALITY = (84, 92)  # a range whose end is excluded

logger = logging.getLogger(__name__)
T, R = TypeVar("T"), TypeVar("R")


class DrawnPicture(NamedTuple):
    """A picture and its questions.

    Attributes:
        image: uint8[H, W, 3], RGB.
        questions: (reasoning type, candidate, wording) for each type.
        others: those with several targets and without any, by kind, each with its wording.
        jpeg_quality: that the picture is to be written with.
    """

    image: np.ndarray
    camera: Camera
    questions: list[tuple[str, Candidate, str]]
    others: dict[str, tuple[OtherQuestion, str]]
    jpeg_quality: int


def generate(
    out: Path,
    counts: dict[str, int],
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    kinds: tuple[str, ...] = QUESTION_KINDS,
) -> None:
    """Write the data set to `out`, whole or not at all.

    Args:
        counts: number of records with one target of each split, of "train", "val" and "test"; they decide the number
            of pictures, and the other kinds of question come on top.
        seed: of the random numbers; not negative.
        workers: processes that draw.
        overwrite: replace an `out` that has content.
        kinds: of question, of QUESTION_KINDS.

    Raises:
        UserError: `out` has content and `overwrite` is off, it cannot be written, or an argument is out of range.
    """
    _check_arguments(out, counts, seed, workers, overwrite, kinds)
    try:
        with atomic_folder(out) as scratch:
            for split in SPLITS:
                _write_split(scratch, split, counts.get(split, 0), seed, workers, kinds)
            settings = json.dumps(dataset_info(counts, seed, kinds), indent=1)
            (scratch / "dataset.json").write_text(settings + "\n")
    except OSError as error:
        raise UserError(f"{out}: the data set cannot be written there ({error}); name another folder") from error


def dataset_info(counts: dict[str, int], seed: int, kinds: tuple[str, ...] = QUESTION_KINDS) -> dict[str, Any]:
    """The content of `dataset.json`; where it is equal, the data are."""
    return {
        "name": "DRSeg-mini",
        "version": VERSION,
        "seed": seed,
        "counts": {split: counts.get(split, 0) for split in SPLITS},
        "questions": [kind for kind in QUESTION_KINDS if kind in kinds],
    }


def is_current(out: Path) -> bool:
    """Whether `out` holds a data set of this version, of any size.

    Raises:
        UserError: `out` is there but holds one of another version or something else.
    """
    if not has_content(out):
        return False
    cure, file = f"`python -m utils.mini_drseg --out {out} --overwrite` draws it anew", out / "dataset.json"
    found = read_json(file, cure, strict=False) if file.exists() else None
    version = (found.get("name"), found.get("version")) if isinstance(found, dict) else None
    if version != ("DRSeg-mini", VERSION):
        raise UserError(f"{out} is not DRSeg-mini of version {VERSION}; {cure}")
    return True


@contextmanager
def generation_lock(out: Path) -> Iterator[None]:
    """Let one process at a time write `out`; a second one waits.

    Raises:
        UserError: nothing can be written beside `out`.
    """
    try:
        with exclusive_lock(working_place(through_links(out), "drawing"), wait=True):
            yield
    except OSError as error:
        raise UserError(f"{out}: cannot be written there ({error}); name another folder") from error


def _check_arguments(
    out: Path, counts: dict[str, int], seed: int, workers: int, overwrite: bool, kinds: tuple[str, ...]
) -> None:
    unknown = [kind for kind in kinds if kind not in QUESTION_KINDS]
    if unknown or not kinds:
        named = unknown[0] if unknown else "nothing"
        raise UserError(f"--questions {named}: known kinds are {', '.join(QUESTION_KINDS)}")
    for split, count in counts.items():
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}; use {', '.join(SPLITS)}")
        if count < 0:
            raise UserError(f"--{split} {count}: give a number of records that is not negative")
    if not any(counts.values()):
        raise UserError("no records are requested; give --train, --val or --test a number above 0")
    if workers < 1:
        raise UserError(f"--workers {workers}: give at least 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: give a seed that is not negative")
    if is_file(out):
        raise UserError(f"{out} is a file; name a folder to write to")
    if has_content(out) and not overwrite:
        raise UserError(f"{out} exists and is not empty; --overwrite replaces it")


def _write_split(root: Path, split: str, count: int, seed: int, workers: int, kinds: tuple[str, ...]) -> None:
    """Write a split's pictures and its labels file."""
    images = root / "CODrone" / f"DR{split}"
    labels = root / "labels"
    images.mkdir(parents=True)
    labels.mkdir(exist_ok=True)
    starts = range(0, count, RECORDS_PER_PICTURE)
    pictures = [(start // RECORDS_PER_PICTURE, min(RECORDS_PER_PICTURE, count - start)) for start in starts]
    work = partial(_write_picture, images=images, split=split, seed=seed, kinds=kinds)
    records = []
    with tqdm(total=len(pictures), desc=f"DRSeg-mini {split}", unit="picture") as bar:
        for drawn in _map_in_order(work, pictures, workers):
            records += drawn
            bar.update()
    (labels / f"DRSeg_{split}.json").write_text(json.dumps(records, indent=1) + "\n")


def _map_in_order(work: Callable[[T], R], items: list[T], workers: int) -> Iterator[R]:
    """The results of `work` in the order of `items`, from so many processes."""
    if workers == 1 or len(items) < 2:
        yield from map(work, items)
        return
    with get_context("spawn").Pool(workers, initializer=_use_one_thread) as pool:
        yield from pool.imap(work, items, chunksize=4)


def _use_one_thread() -> None:
    cv2.setNumThreads(1)  # the pictures are distributed over processes instead


def _write_picture(
    picture: tuple[int, int], images: Path, split: str, seed: int, kinds: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Draw a picture of a split, given as (number, records with one target wanted of it), write it and return its
    records; none and no picture where no question is of the wanted kinds."""
    number, wanted = picture
    image, camera, questions, others, quality = draw_picture(seed, split, number)
    name = f"mini_{split}_{number:04d}"
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    records = [_record(name, camera, *question) for question in questions[:wanted] if question[0] in kinds]
    if wanted == RECORDS_PER_PICTURE:
        records += [
            _other_record(name, camera, *others[kind]) for kind in OTHER_KINDS if kind in others and kind in kinds
        ]
    if not records:
        return []
    if not cv2.imwrite(str(images / f"{name}.jpg"), image[..., ::-1], options):
        raise OSError(f"OpenCV could not write {images / name}.jpg")
    return records


def draw_picture(seed: int, split: str, number: int) -> DrawnPicture:
    """Draw the picture `number` of a split and its questions.

    Raises:
        RuntimeError: none of the scenes allows a question of each type.
    """
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng([seed, SPLITS.index(split), number, attempt])
        scene = plan_scene(rng)
        picture = render(scene, rng)
        visible = visible_things(scene, picture)
        chosen = choose_questions(visible, scene.camera, REASONING_TYPES, rng)
        if chosen:
            texts = [str(rng.choice(candidate.questions)) for candidate in chosen]
            quality = int(rng.integers(*JPEG_QUALITY))
            questions = list(zip(REASONING_TYPES, chosen, texts, strict=True))
            # a generator of their own, so that they change nothing about the questions with one target
            apart = np.random.default_rng([seed, SPLITS.index(split), number, MAX_ATTEMPTS])
            others = choose_other_questions(visible, scene.things, scene.camera, number, apart)
            return DrawnPicture(picture.image, scene.camera, questions, others, quality)
    raise RuntimeError(f"no scene for {split} {number} with seed {seed} in {MAX_ATTEMPTS} attempts")


def _record(name: str, camera: Camera, reasoning_type: str, candidate: Candidate, question: str) -> dict[str, Any]:
    """One record in DRSeg's layout."""
    think = f"{candidate.think} {place_sentence(candidate.target, camera)}"
    return _labels(name, camera, (candidate.target,), question, think, candidate.answer, reasoning_type)


def _other_record(name: str, camera: Camera, other: OtherQuestion, question: str) -> dict[str, Any]:
    """One record with several targets, or with none, which it says."""
    record = _labels(name, camera, other.targets, question, other.think, other.answer, other.reasoning_type)
    return record if other.targets else {**record, "no_target": True}


def _labels(
    name: str,
    camera: Camera,
    targets: tuple[VisibleThing, ...],
    question: str,
    think: str,
    answer: str,
    reasoning_type: str,
) -> dict[str, Any]:
    return {
        "id": name,
        "height": camera.height,
        "width": camera.width,
        "altitude": int(camera.altitude),
        "ann_list": [{"segmentation": target.polygons} for target in targets],
        "questions": [question],
        "answers": [f"<think>{think}</think><answer>{answer}</answer>"],
        "reasoning_types": [reasoning_type],
    }


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Write the embedded synthetic data set.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    for split, count in DEFAULT_COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"{split} records with one target")
    parser.add_argument(
        "--questions", nargs="+", default=list(QUESTION_KINDS), metavar="KIND", help=f"of {', '.join(QUESTION_KINDS)}"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    parser.add_argument("--if-missing", action="store_true", help="do nothing where --out holds the set already")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    counts = {split: getattr(args, split) for split in SPLITS}
    with generation_lock(args.out):  # train.sh and eval.sh may want the same set at the same time
        if args.if_missing and is_current(args.out):
            return
        generate(args.out, counts, args.seed, args.workers, args.overwrite, tuple(args.questions))
    logger.info("wrote %s", args.out)
