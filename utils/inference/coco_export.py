"""Answers as a COCO instances file that CVAT, Label Studio, Roboflow and this project's data set `coco` read.

What they need (of their sources, 2025), and what is written for it:

- CVAT (datumaro) knows pictures by `file_name` without its ending, refuses labels of more than 64 characters, and
  takes a category 0 for none: names are cut, ids begin with 1.
- Label Studio (label_studio_sdk.converter) draws polygons alone, needs a `bbox` and a `score` an annotation, and puts
  names of categories into XML as they are: no run lengths, no `iscrowd`, no quotes or angle brackets in a name. Its
  older converter takes the first polygon of an annotation: the largest stands first.
- Roboflow finds a picture by its bare name, and needs `info` and `licenses`: folders are named only where bare names
  would not tell pictures apart.
- The data set `coco` reads `questions` of a picture, where questions without a target can stand too.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from model.answering import NO_SEG, OK
from model.masks import mask_area, pixels_of
from model.segmentation import coco_annotation
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_write, write_errors_as_user_error

log = logging.getLogger(__name__)

LONGEST_NAME = 64  # characters of a label in CVAT
CUT = "..."
NOT_IN_XML = str.maketrans({'"': "'", "<": "(", ">": ")", "&": "+"})
CURE = "remove the line, or ask again into a new folder"
Answers = dict[str, dict[str, dict[str, Any]]]  # by picture and question


def coco_instances(lines: Iterable[dict[str, Any]], tolerance: float = 0.0) -> dict[str, Any]:
    """A COCO file of instances: a category a question, an annotation a mask that is not empty.

    A picture without a target is there without annotations. Where a question was asked again about the same picture,
    the last answer counts. Ids run from 1 in the order of the lines.

    Args:
        lines: of `utils.inference.results.answer_record`.
        tolerance: pixels by which outlines may leave a mask to have fewer corners; 0 is exact, which pycocotools
            fills to the same mask.

    Raises:
        UserError: a line is none of infer.py, or two lines give a picture different sizes.
    """
    answers = _answers(lines)
    questions = list(dict.fromkeys(question for asked in answers.values() for question in asked))
    numbers = {question: number for number, question in enumerate(questions, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, asked) in enumerate(zip(_file_names(list(answers)), answers.values(), strict=True), 1):
        height, width = next(iter(asked.values()))["rle"]["size"]
        image = {"id": number, "file_name": name, "width": width, "height": height, "questions": []}
        for question, line in asked.items():
            found = _annotations(line, number, numbers[question], len(annotations) + 1, tolerance)
            annotations += found
            if line["status"] == NO_SEG:
                image["questions"].append({"question": question, "annotation_ids": [], "no_target": True})
            elif line["status"] == OK and found:
                image["questions"].append({"question": question, "annotation_ids": [one["id"] for one in found]})
        images.append(image)
    return {
        "info": {"description": "Answers of PixDLM, written by infer.py", "version": "1.0"},
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": "", "question": question}
            for number, (question, name) in enumerate(zip(questions, category_names(questions), strict=True), 1)
        ],
        "images": images,
        "annotations": annotations,
    }


def write_coco(path: Path, lines: Iterable[dict[str, Any]], tolerance: float = 0.0) -> None:
    """Write `coco_instances` atomically.

    Raises:
        UserError: as there, or it cannot be written.
    """
    text = json.dumps(coco_instances(lines, tolerance), ensure_ascii=False, allow_nan=False)
    with write_errors_as_user_error(path):
        atomic_write(path, f"{text}\n".encode("utf-8", "backslashreplace"))


def category_names(questions: Sequence[str]) -> list[str]:
    """Questions as names of labels: of LONGEST_NAME characters at most, each another one in lower case too."""
    names: list[str] = []
    taken: set[str] = set()
    for question in questions:
        text = " ".join(question.translate(NOT_IN_XML).split()) or "target"
        name, number = _cut(text, LONGEST_NAME), 1
        while name.casefold() in taken:
            number += 1
            ending = f" ({number})"
            name = _cut(text, LONGEST_NAME - len(ending)) + ending
        taken.add(name.casefold())
        names.append(name)
    return names


def _cut(text: str, most: int) -> str:
    """A text of so many characters at most, cut between words where that keeps half of it."""
    if len(text) <= most:
        return text
    room = most - len(CUT)
    blank = text.rfind(" ", room // 2, room + 1)
    return text[: blank if blank > 0 else room].rstrip() + CUT


def _answers(lines: Iterable[dict[str, Any]]) -> Answers:
    """The last answer to every question about every picture, pictures by their absolute paths.

    Raises:
        UserError: a line is none of infer.py, or two give a picture different sizes.
    """
    answers: Answers = {}
    sizes: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        try:
            picture, question, size = os.path.abspath(line["picture"]), line["question"], line["rle"]["size"]
            known = isinstance(question, str) and line["status"] and all(_fits(mask, size) for mask in line["masks"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"answer {number} is no line of infer.py ({error!r}); {CURE}") from error
        if not known:
            raise UserError(f"answer {number}, about {picture}, has a mask that does not fill the picture; {CURE}")
        if sizes.setdefault(picture, size) != size:
            (height, width), (rows, columns) = sizes[picture], size
            raise UserError(
                f"{picture}: one answer is about {width} x {height} pixels, answer {number} about {columns} x {rows}, "
                "so they are about two pictures of that name; remove the older lines, or ask again into a new folder"
            )
        answers.setdefault(picture, {})[question] = line
    return answers


def _fits(mask: dict[str, Any], size: list[int]) -> bool:
    """Whether run lengths fill a picture of a size (height, width)."""
    return mask["rle"]["size"] == size and pixels_of(mask["rle"]["counts"]) == size[0] * size[1]


def _file_names(pictures: list[str]) -> list[str]:
    """Bare names of absolute paths; where two differ in their endings alone or not at all, paths from the folder that
    holds them all."""
    names = [os.path.basename(picture) for picture in pictures]
    if _same_stems(names):
        common = os.path.commonpath([os.path.dirname(picture) for picture in pictures])
        names = [os.path.relpath(picture, common) for picture in pictures]
    for stem in _same_stems(names):
        log.warning("several pictures are called %s with different endings, which CVAT does not tell apart", stem)
    return names


def _same_stems(names: list[str]) -> list[str]:
    """Names without their endings that several of them have."""
    return [stem for stem, times in Counter(os.path.splitext(name)[0] for name in names).items() if times > 1]


def _annotations(line: dict[str, Any], image: int, category: int, first: int, tolerance: float) -> list[dict[str, Any]]:
    """Those of one answer, an annotation for each mask that is not empty."""
    found: list[dict[str, Any]] = []
    for mask in line["masks"]:
        rle = mask["rle"]
        if mask_area(rle):
            ids = {"id": first + len(found), "image_id": image, "category_id": category}
            found.append({**ids, **coco_annotation(coco.decode(rle), rle, float(mask["confidence"]), tolerance)})
    return found
