"""DRSeg in its published layout.

    ROOT/labels/DRSeg_{train,val,test}.json
    ROOT/CODrone/DR{train,val,test}/{id}.jpg

A record is `{id, height, width, ann_list: [{segmentation}], questions, answers, reasoning_types}` with
an optional `altitude` in metres; a segmentation is one polygon `[x, y, …]` or a list of them. Answers
and reasoning types are in the order of the questions; null means none.
"""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco

from model.masks import Polygon, polygons_rle
from utils.datasets.base import BadRecord, DatasetSpec, Sample
from utils.runtime.errors import UserError

log = logging.getLogger(__name__)

NAME = "drseg"
POLYGON_RULES = ("union", "first")
REASONING_TYPES = ("spatial", "attribute", "scene")
REQUIRED: dict[str, tuple[tuple[type, ...], str]] = {
    "id": ((str, int), "a text or a number"),
    "height": ((int,), "whole pixels"),
    "width": ((int,), "whole pixels"),
    "ann_list": ((list,), "a list"),
    "questions": ((list,), "a list"),
    "answers": ((list,), "a list, null where there is no answer"),
    "reasoning_types": ((list,), "a list, null where the type is not known"),
}
PROPORTION_TOLERANCE = 0.01  # rounding when pictures are resized, no more
MAX_COORDINATE = 1e6  # pixels; beyond any photograph, and pycocotools would draw all the way there


def load_drseg(root: Path, split: str, polygons: str = "union", skip_bad_records: bool = False) -> list[Sample]:
    """All samples of a split, checked: every picture is there and fits its labels.

    Args:
        root: the folder that holds `labels` and `CODrone`.
        split: "train", "val" or "test".
        polygons: "union" of a target's polygons, or only the "first" (the published reading).
        skip_bad_records: leave bad records out, counted and listed in the log.

    Raises:
        UserError: the split's label file is missing, or holds no list in JSON.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    if polygons not in POLYGON_RULES:
        raise UserError(f"polygons is {polygons!r}; known are {', '.join(POLYGON_RULES)}")
    file = label_file(root, split)
    reader = _Reader(root, split, file, polygons, decode=skip_bad_records)
    samples: list[Sample] = []
    bad: list[str] = []
    rescaled = 0
    for position, record in enumerate(read_records(file)):
        try:
            found, scaled = reader.samples(position, record, len(samples))
        except BadRecord as error:
            if not skip_bad_records:
                raise BadRecord(f"{error}; mend it, or pass --skip-bad-records to go on without it") from error
            bad.append(str(error).removeprefix(f"{file}: "))
            continue
        samples.extend(found)
        rescaled += scaled
    if bad:
        log.warning("%s: %d bad records skipped:\n  %s", file, len(bad), "\n  ".join(bad))
    if rescaled:
        log.warning("%s: %d records have pictures of another size; their polygons are scaled", file, rescaled)
    if not samples:
        raise UserError(f"{file}: no usable record in it; fetch or make the data again (data/README.md)")
    return samples


def label_file(root: Path, split: str) -> Path:
    """The label file of a split.

    Raises:
        UserError: the split is missing; those that are there are listed.
    """
    file = root / "labels" / f"DRSeg_{split}.json"
    if not file.is_file():
        found = sorted(path.stem.removeprefix("DRSeg_") for path in root.glob("labels/DRSeg_*.json"))
        raise UserError(f"{file}: no such split; in {root} there are: {', '.join(found) or 'none'}")
    return file


def read_records(file: Path) -> list[Any]:
    """The list in a label file.

    Raises:
        UserError: it is not JSON, or not a list.
    """
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not JSON ({error}); fetch or unpack it again") from error
    if not isinstance(records, list):
        raise UserError(f"{file}: holds a {type(records).__name__}, expected a list of records")
    return records


class _Reader:
    """Turns records of one file into samples; reads every picture's header once.

    With `decode` pictures are decoded: a truncated one is then a bad record, not an error during training.
    """

    def __init__(self, root: Path, split: str, file: Path, polygons: str, decode: bool) -> None:
        self.images = root / "CODrone" / f"DR{split}"
        self.file, self.polygons, self.decode = file, polygons, decode
        self.sizes: dict[Path, tuple[int, int]] = {}

    def samples(self, position: int, record: Any, first_index: int) -> tuple[list[Sample], bool]:
        """One sample a question, and whether the picture has another size than the labels' frame."""
        where = f"{self.file}: record {position}"
        check_fields(where, record)
        where += f" (id {record['id']!r})"
        frame = (record["height"], record["width"])
        path = self._picture(where, record["id"])
        picture = self._picture_fitting(where, path, frame)
        if not record["ann_list"]:
            raise BadRecord(f"{where} has no target (ann_list is empty)")
        targets = tuple(
            self._target(f"{where}, target {i}", annotation, frame, picture)
            for i, annotation in enumerate(record["ann_list"])
        )
        samples = [
            Sample(
                image_path=path,
                question=question,
                answer=answer,
                targets=targets,
                height=frame[0],
                width=frame[1],
                dataset=NAME,
                record_id=str(record["id"]),
                index=first_index + i,
                groups=without_none(reasoning_type=kind, altitude=record.get("altitude")),
            )
            for i, (question, answer, kind) in enumerate(checked_questions(where, record))
        ]
        return samples, picture != frame

    def _picture(self, where: str, name: str | int) -> Path:
        path = self.images / f"{name}.jpg"
        if not os.path.normpath(path).startswith(os.path.normpath(self.images) + os.sep):
            raise BadRecord(f"{where}: its picture would lie outside {self.images}")
        return path

    def _picture_fitting(self, where: str, path: Path, frame: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the picture, which has the proportions of the labels' frame."""
        if path not in self.sizes:
            self.sizes[path] = picture_size(where, path, self.decode)
        (height, width), (frame_height, frame_width) = self.sizes[path], frame
        if not same_proportions((height, width), frame):
            rotated = same_proportions((width, height), frame)
            raise BadRecord(
                f"{where}: {path} is {width}x{height} pixels, but the labels were drawn on "
                f"{frame_width}x{frame_height}; the proportions contradict each other"
                + (" (it may have to be rotated as its orientation tag says)" if rotated else "")
            )
        return height, width

    def _target(
        self, where: str, annotation: Any, frame: tuple[int, int], picture: tuple[int, int]
    ) -> tuple[Polygon, ...]:
        if not isinstance(annotation, dict) or "segmentation" not in annotation:
            raise BadRecord(f"{where} lacks the field 'segmentation'")
        segmentation = annotation["segmentation"]
        if not isinstance(segmentation, list) or not segmentation:
            raise BadRecord(f"{where}: segmentation is empty or no list")
        lists = segmentation if isinstance(segmentation[0], list) else [segmentation]
        if self.polygons == "first":
            lists = lists[:1]
        polygons = tuple(checked_polygon(f"{where}, polygon {i}", one, frame) for i, one in enumerate(lists))
        if not coco.area(polygons_rle(polygons, frame, picture)):
            raise BadRecord(f"{where} covers no pixel of the picture")
        return polygons


def check_fields(where: str, record: Any) -> None:
    """Check that a record has all fields, of the right types.

    Raises:
        BadRecord: it is no object, or a field is missing or of the wrong kind.
    """
    if not isinstance(record, dict):
        raise BadRecord(f"{where} is a {type(record).__name__}, expected an object")
    where += f" (id {record.get('id')!r})"
    for field, (kinds, expected) in REQUIRED.items():
        if field not in record:
            raise BadRecord(f"{where} lacks the field {field!r}")
        if type(record[field]) not in kinds:  # isinstance would let true pass for 1
            raise BadRecord(f"{where}: {field} is {shortened(record[field])}, expected {expected}")
    if record["height"] < 1 or record["width"] < 1:
        raise BadRecord(f"{where}: its frame is {record['width']}x{record['height']} pixels")
    altitude = record.get("altitude")
    if altitude is not None and type(altitude) is not int:
        raise BadRecord(f"{where}: altitude is {shortened(altitude)}, expected whole metres")


def checked_questions(where: str, record: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """Question, answer and reasoning type of every question of a record.

    Raises:
        BadRecord: no question, an empty one, or lists whose lengths differ or that hold something else.
    """
    questions = record["questions"]
    if not questions:
        raise BadRecord(f"{where} has no question")
    for field in ("answers", "reasoning_types"):
        if len(record[field]) != len(questions):
            raise BadRecord(f"{where} has {len(questions)} questions, but {len(record[field])} {field}")
    rows = list(zip(questions, record["answers"], record["reasoning_types"], strict=True))
    for i, (question, answer, kind) in enumerate(rows):
        if not isinstance(question, str) or not question.strip():
            raise BadRecord(f"{where}: question {i} is {shortened(question)}, expected a text")
        if answer is not None and not isinstance(answer, str):
            raise BadRecord(f"{where}: answer {i} is {shortened(answer)}, expected a text or null")
        if kind is not None and kind not in REASONING_TYPES:
            raise BadRecord(
                f"{where}: reasoning type {i} is {shortened(kind)}; known are {', '.join(REASONING_TYPES)} and null"
            )
    return [(question.strip(), answer, kind) for question, answer, kind in rows]


def without_none(**values: Any) -> dict[str, Any]:
    """The groups that have a value."""
    return {name: value for name, value in values.items() if value is not None}


def shortened(value: Any) -> str:
    """The repr of a value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def same_proportions(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) differ by scale alone."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= PROPORTION_TOLERANCE


def picture_size(where: str, path: Path, decode: bool = False) -> tuple[int, int]:
    """(height, width) of the pixels as they are stored, from the picture's header; `decode` decodes it too.

    Raises:
        BadRecord: the picture is missing, no picture, or too large to decode.
    """
    try:
        with Image.open(path) as picture:
            if decode:
                picture.load()
            return picture.height, picture.width
    except FileNotFoundError as error:
        raise BadRecord(f"{where}: its picture {path} is missing") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRecord(f"{where}: {path} cannot be read as a picture ({error})") from error


def checked_polygon(where: str, values: Any, frame: tuple[int, int]) -> Polygon:
    """A polygon's coordinates; what overhangs the frame is cut off when the mask is drawn.

    Raises:
        BadRecord: fewer than 3 points, no numbers, wholly outside the frame, or without area.
    """
    if not isinstance(values, list) or len(values) % 2 or not all(type(v) in (int, float) for v in values):
        raise BadRecord(f"{where} is {shortened(values)}, expected a list of numbers x, y, x, y, …")
    if not all(math.isfinite(v) and abs(v) <= MAX_COORDINATE for v in values):
        raise BadRecord(f"{where} has a coordinate that is no pixel's")
    if len(values) < 6:
        raise BadRecord(f"{where} has {len(values) // 2} points; a polygon needs 3")
    xs, ys = values[0::2], values[1::2]
    if max(xs) <= 0 or max(ys) <= 0 or min(xs) >= frame[1] or min(ys) >= frame[0]:
        raise BadRecord(f"{where} lies wholly outside the frame of {frame[1]}x{frame[0]}")
    if abs(signed_area(values)) < 1e-6:
        raise BadRecord(f"{where} has no area")
    return tuple(float(value) for value in values)


def signed_area(polygon: list[float]) -> float:
    """The area that a polygon encloses, negative where its points run the other way round."""
    xs, ys = polygon[0::2], polygon[1::2]
    return sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs))) / 2


SPEC = DatasetSpec(
    name=NAME,
    splits=("train", "val", "test"),
    layout="labels/DRSeg_{split}.json\nCODrone/DR{split}/{id}.jpg",
    source="`python -m utils.download --what drseg`, or `python -m utils.mini_drseg --out DIR` for a small drawn one",
    loader=load_drseg,
    group_titles={"reasoning_type": "reasoning type", "altitude": "altitude (m)"},
)
