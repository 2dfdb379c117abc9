"""The results of infer.py for a picture."""

from __future__ import annotations

import json
import os
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from model.inputs.images import Picture, write_image
from model.masks import PREDICTED, encode_mask, mask_area, mask_box, paint_mask
from model.segmentation import Segmentation
from utils.runtime.errors import UserError
from utils.runtime.files import append_line, exclusive_lock, write_errors_as_user_error
from utils.runtime.json_files import parse_json
from utils.runtime.paths import fitting_name
from utils.runtime.text import shown_name

ANSWERS, MASK, OVERLAY = "answers.jsonl", ".mask.png", ".overlay.jpg"
LOCK = ".answers.lock"  # while an answer is being written


def answer_record(picture: Path, question: str, answer: Segmentation) -> dict[str, Any]:
    r"""The JSON line of one picture; boxes are [x, y, width, height] in pixels, null where a mask is empty.

    Bytes of the picture's name that are no UTF-8 stand as \xNN in it.
    """
    union = answer.union
    rle = encode_mask(union)
    return {
        "picture": shown_name(picture),
        "question": question,
        "text": answer.text,
        "status": answer.status,
        "box": mask_box(rle),
        "area": int(union.sum()),
        "area_fraction": float(union.mean()),
        "confidence": answer.union_score,
        "rle": rle,
        "masks": mask_records(answer),
    }


def mask_records(answer: Segmentation) -> list[dict[str, Any]]:
    """Box, area, confidence and run lengths of every mask of an answer, as JSON takes them."""
    return [
        {"box": mask_box(rle), "area": mask_area(rle), "confidence": float(score), "rle": rle}
        for rle, score in zip(answer.rles, answer.scores, strict=True)
    ]


def named_masks(answers: Path) -> set[str]:
    """What earlier lines call their masks, without the ending; a line that cannot be read names none."""
    if not answers.exists():
        return set()
    names = set()
    with open(answers, "rb") as lines:
        for line in lines:
            try:
                entry = parse_json(line, str(answers), strict=False)
            except UserError:  # cut by a crash, or somebody else's
                continue
            if isinstance(entry, dict) and isinstance(entry.get("mask"), str):
                names.add(entry["mask"].removesuffix(MASK))
    return names


def free_name(picture: Path, out: Path, taken: set[str]) -> str:
    r"""A name for a picture's results: its stem, cut where it is too long, numbered where there is such a one.

    Bytes that are no UTF-8 become \xNN.

    Args:
        picture: that was asked about.
        out: the folder of results.
        taken: names that lines have, whether or not their files are still there.
    """
    endings = chain([OVERLAY], (f"-{number}{OVERLAY}" for number in count(2)))
    stem = os.fsdecode(shown_name(picture.stem).encode())  # a name that a line of JSON and any locale can write
    names = (fitting_name(out, stem, ending).removesuffix(OVERLAY) for ending in endings)
    return next(name for name in names if name not in taken and not is_there(out, name))


def is_there(out: Path, name: str) -> bool:
    """Whether results have this name."""
    return any(os.path.lexists(out / f"{name}{suffix}") for suffix in (MASK, OVERLAY))


def write_answer(
    out: Path, picture: Picture, entry: dict[str, Any], union: np.ndarray, taken: set[str]
) -> dict[str, Any]:
    """Mask, overlay and line of one answer, all or none of them; what is there already stays as it is.

    Of processes that write into one folder each waits for the others, so that every line names files of its own.

    Args:
        out: the folder.
        picture: that was asked about.
        entry: of `answer_record`; the names of its files are added.
        union: bool[H, W]
        taken: of `free_name`; this one's is added.

    Returns:
        the entry with the names of its files, as the line has it

    Raises:
        UserError: a file cannot be written.
    """
    with write_errors_as_user_error(out), exclusive_lock(out / LOCK, wait=True):
        name = free_name(Path(picture.path), out, taken)
        named = {**entry, "mask": name + MASK, "overlay": name + OVERLAY}
        files = {MASK: np.uint8(255) * union, OVERLAY: paint_mask(picture.pixels, union, PREDICTED)}
        try:
            for suffix, pixels in files.items():
                with write_errors_as_user_error(out / f"{name}{suffix}"):
                    write_image(out / f"{name}{suffix}", pixels)
            with write_errors_as_user_error(out / ANSWERS):
                append_line(out / ANSWERS, json_line(named))
        except BaseException:
            for suffix in files:
                (out / f"{name}{suffix}").unlink(missing_ok=True)
            raise
        taken.add(name)
    return named


def json_line(entry: dict[str, Any], encoding: str | None = "utf-8") -> str:
    """An entry as a line of JSON; where the encoding of what it is written to lacks a letter, letters are escaped."""
    line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
    try:
        line.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(entry, allow_nan=False)
    return line
