"""The results of infer.py: what an answer's line holds, and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from model.masks import encode_mask, mask_area, mask_box
from model.segmentation import Segmentation
from utils.runtime.errors import UserError
from utils.runtime.files import append_line, atomic_write, exclusive_lock, write_errors_as_user_error
from utils.runtime.json_files import parse_json
from utils.runtime.paths import fitting_name
from utils.runtime.text import shown_name

ANSWERS, FAILED = "answers.jsonl", "failed.jsonl"
FILES = {"mask": ".mask.png", "overlay": ".overlay.jpg", "geojson": ".geojson"}  # of an answer: key of its line, ending
LONGEST = max(FILES.values(), key=len)
LOCK = ".answers.lock"  # while an answer is being written


def answer_record(answer: Segmentation, tolerance: float = 0.0) -> dict[str, Any]:
    """What a line says of an answer; boxes are [x, y, width, height] in pixels, null where a mask is empty.

    Args:
        answer: of the model.
        tolerance: of the polygons, see `Segmentation.polygons`.
    """
    masks = mask_records(answer, tolerance)
    rle = answer.rles[0] if len(masks) == 1 else encode_mask(answer.union)
    area = mask_area(rle)
    return {
        "question": answer.question,
        "text": answer.text,
        "status": answer.status,
        "box": mask_box(rle),
        "area": area,
        "area_fraction": area / answer.union.size,
        "confidence": answer.union_score,
        "rle": rle,
        "masks": masks,
    }


def mask_records(answer: Segmentation, tolerance: float | None) -> list[dict[str, Any]]:
    """Box, area, confidence, run lengths and polygons of every mask of an answer.

    Args:
        answer: of the model.
        tolerance: of the polygons; None leaves them out.
    """
    records: list[dict[str, Any]] = [
        {"box": mask_box(rle), "area": mask_area(rle), "confidence": float(score), "rle": rle}
        for rle, score in zip(answer.rles, answer.scores, strict=True)
    ]
    if tolerance is not None:
        for record, polygons in zip(records, answer.polygons(tolerance), strict=True):
            record["polygons"] = [polygon.ravel().tolist() for polygon in polygons]
    return records


def read_answers(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of earlier calls into a folder, one by one, as thousands with their polygons may be large.

    One that cannot be read, cut by a crash or somebody else's, is none.
    """
    answers = folder / ANSWERS
    if not answers.exists():
        return
    with open(answers, "rb") as lines:
        for line in lines:
            try:
                entry = parse_json(line, str(answers), strict=False)
            except UserError:
                continue
            if isinstance(entry, dict):
                yield entry


def result_names(entries: Iterable[dict[str, Any]]) -> set[str]:
    """What lines call their files, without the endings."""
    named = ((entry.get(key), ending) for entry in entries for key, ending in FILES.items())
    return {name.removesuffix(ending) for name, ending in named if isinstance(name, str)}


def free_name(stem: str, out: Path, taken: set[str]) -> str:
    r"""A name for an answer's files: the stem, cut where it is too long, numbered where there is such a one.

    Bytes that are no UTF-8 become \xNN.

    Args:
        stem: of the picture's name.
        out: the folder of results.
        taken: names that lines have, whether or not their files are still there.
    """
    endings = chain([LONGEST], (f"-{number}{LONGEST}" for number in count(2)))
    stem = os.fsdecode(shown_name(stem).encode())  # a name that a line of JSON and any locale can write
    names = (fitting_name(out, stem, ending).removesuffix(LONGEST) for ending in endings)
    return next(name for name in names if name not in taken and not is_there(out, name))


def is_there(out: Path, name: str) -> bool:
    """Whether results have this name."""
    return any(os.path.lexists(out / f"{name}{ending}") for ending in FILES.values())


def write_answer(
    out: Path, stem: str, entry: dict[str, Any], files: Mapping[str, bytes], taken: set[str]
) -> dict[str, Any]:
    """Files and line of one answer, all or none of them; what is there already stays as it is.

    Of processes that write into one folder each waits for the others, so that every line names files of its own.

    Args:
        out: the folder.
        stem: of the names of its files.
        entry: the line; the names of its files are added.
        files: their contents, by keys of FILES.
        taken: of `free_name`; this one's is added.

    Returns:
        the entry with the names of its files, as the line has it

    Raises:
        UserError: a file cannot be written.
    """
    with write_errors_as_user_error(out), exclusive_lock(out / LOCK, wait=True):
        name = free_name(stem, out, taken)
        paths = {key: out / f"{name}{FILES[key]}" for key in files}
        named = {**entry, **{key: path.name for key, path in paths.items()}}
        try:
            for key, content in files.items():
                with write_errors_as_user_error(paths[key]):
                    atomic_write(paths[key], content)
            with write_errors_as_user_error(out / ANSWERS):
                append_line(out / ANSWERS, json_line(named))
        except BaseException:
            for path in paths.values():
                path.unlink(missing_ok=True)
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
