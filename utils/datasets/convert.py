"""Any data set into DRSeg's layout, which every script reads by default and other code bases know."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from model.inputs.picture_files import AS_STORED, decoded, opened_picture, orientation_of
from utils.datasets.base import Sample, Target
from utils.datasets.drseg import REASONING_TYPES
from utils.datasets.layout import those_there
from utils.datasets.outlines import rle_polygons
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_folder, link_or_copy, write_errors_as_user_error
from utils.runtime.paths import fitting_name, has_content
from utils.runtime.text import lone_surrogate, shown_name

log = logging.getLogger(__name__)

JPEG_QUALITY = 95
DEFAULT_SPLITS = ("train", "val", "test")


@dataclass
class Converted:
    """What became of a split.

    Args:
        questions: written.
        pictures: linked or copied as they are.
        encoded: pictures that were written anew as JPEG.
        inexact: IoU of what polygons draw with each run-length mask that they do not draw exactly.
        ignored: questions whose ignore region the layout cannot hold.
    """

    questions: int = 0
    pictures: int = 0
    encoded: int = 0
    inexact: list[float] = field(default_factory=list)
    ignored: int = 0


def convert(root: Path, splits: Sequence[str] | None, name: str, out: Path, **reading: Any) -> dict[str, Converted]:
    """Write splits of a data set in DRSeg's layout; `out` appears when all is written, or not at all.

    Args:
        root: of the data set.
        splits: which; None for those of train, val and test that are there, the others being told.
        name: of the data set.
        out: the new folder.
        reading: as `load_dataset` takes it.

    Raises:
        UserError: `out` has content, the data set cannot be read, or the disk is full.
    """
    if has_content(out):
        raise UserError(f"--out {out}: has content already; name another folder, or move it away")
    loaded = _loaded(root, splits, name, reading)
    with write_errors_as_user_error(out), atomic_folder(out) as beside:
        return {split: _write_split(beside, split, samples) for split, samples in loaded.items()}


def _loaded(root: Path, splits: Sequence[str] | None, name: str, reading: dict[str, Any]) -> dict[str, list[Sample]]:
    def read(split: str) -> list[Sample]:
        return load_dataset(root, split, name, **reading)

    if splits is not None:
        return {split: read(split) for split in splits}
    found, missing = those_there(DEFAULT_SPLITS, read, "--split")
    for split, error in missing.items():
        log.warning("the split %s is not there and is left out: %s", split, str(error).splitlines()[0])
    return found


def _write_split(out: Path, split: str, samples: Sequence[Sample]) -> Converted:
    done = Converted(questions=len(samples))
    folder = out / "CODrone" / f"DR{split}"
    folder.mkdir(parents=True)
    (out / "labels").mkdir(exist_ok=True)
    names: dict[tuple[Path, bool], str] = {}
    shapes: dict[int, list[dict[str, Any]]] = {}
    records = []
    for sample in samples:
        picture = sample.image_path, sample.upright
        if picture not in names:
            names[picture] = free_name(folder, sample.image_path, set(names.values()))
            write_picture(sample, folder / f"{names[picture]}.jpg", done)
        if id(sample.targets) not in shapes:
            shapes[id(sample.targets)] = [{"segmentation": polygons_of(one, done)} for one in sample.targets]
        done.ignored += sample.ignore is not None
        records.append(record_of(sample, names[picture], shapes[id(sample.targets)]))
    text = json.dumps(records, ensure_ascii=False, allow_nan=False)
    (out / "labels" / f"DRSeg_{split}.json").write_text(f"{text}\n", "utf-8")
    return done


def record_of(sample: Sample, name: str, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    """A sample as a record of DRSeg's."""
    kind, altitude = sample.groups.get("reasoning_type"), sample.groups.get("altitude")
    record = {
        "id": name,
        "height": sample.height,
        "width": sample.width,
        "ann_list": shapes,
        "questions": [sample.question],
        "answers": [sample.answer],
        "reasoning_types": [kind if kind in REASONING_TYPES else None],
    }
    if altitude is not None:
        record["altitude"] = altitude
    return record if sample.targets else {**record, "no_target": True}


def polygons_of(target: Target, done: Converted) -> list[list[float]]:
    """A target's polygons; those of run lengths are drawn again and compared."""
    if not isinstance(target, dict):
        return [list(polygon) for polygon in target]
    polygons, iou = rle_polygons(target)
    if iou < 1:
        done.inexact.append(iou)
    return polygons


def free_name(folder: Path, picture: Path, taken: set[str]) -> str:
    """A picture's name without its ending, made other than those of other pictures, be it in case alone."""
    stem = shown_name(picture.stem) if lone_surrogate(picture.stem) else picture.stem
    lower, name, n = {one.lower() for one in taken}, stem, 1
    while (name := os.path.splitext(fitting_name(folder, name, ".jpg"))[0]).lower() in lower:
        n += 1
        name = f"{stem}_{n}"
    return name


def write_picture(sample: Sample, target: Path, done: Converted) -> None:
    """The picture as a JPEG: the same file where it is one, whatever it is called, else encoded anew.

    One with an orientation tag is encoded anew too, as its labels see it, so that nothing is left to ask.
    """
    with opened_picture(sample.image_path) as opened:
        as_it_is = opened.format in ("JPEG", "MPO") and orientation_of(opened) == AS_STORED
        pixels = None if as_it_is else decoded(opened, sample.upright)
    if pixels is None:  # not in the block, which takes a full disk for a damaged picture
        link_or_copy(sample.image_path.resolve(), target)
        done.pictures += 1
    else:
        Image.fromarray(pixels).save(target, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        done.encoded += 1


def log_converted(split: str, done: Converted) -> None:
    """Tell what a split has become, and what of it the layout cannot hold."""
    log.info("%s: %d questions; %d pictures linked or copied", split, done.questions, done.pictures)
    if done.encoded:
        message = "%s: %d pictures are no JPEG as stored and were encoded as JPEG of quality %d"
        log.info(message, split, done.encoded, JPEG_QUALITY)
    if done.inexact:
        message = "%s: %d masks are drawn only nearly by polygons, the worst with IoU %.4f"
        log.warning(message, split, len(done.inexact), min(done.inexact))
    if done.ignored:
        message = "%s: %d questions have a region that is not counted, which this layout cannot hold; it is left out"
        log.warning(message, split, done.ignored)
