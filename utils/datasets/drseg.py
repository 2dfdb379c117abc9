"""DRSeg in its published layout.

    ROOT/labels/DRSeg_{train,val,test}.json
    ROOT/CODrone/DR{train,val,test}/{id}.jpg

A record is `{id, height, width, ann_list: [{segmentation}], questions, answers, reasoning_types}` with
an optional `altitude` in metres; a segmentation is one polygon `[x, y, …]` or a list of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from utils.datasets.base import BadRecord, Polygon, Sample
from utils.errors import UserError

log = logging.getLogger(__name__)

NAME = "drseg"
POLYGON_RULES = ("union", "first")
REASONING_TYPES = ("spatial", "attribute", "scene")
REQUIRED = {"id": (str, int), "height": int, "width": int, "ann_list": list, "questions": list}
PROPORTION_TOLERANCE = 0.01  # rounding when pictures are resized, no more


def load_drseg(root: Path, split: str, polygons: str = "union", skip_bad_records: bool = False) -> list[Sample]:
    """All samples of a split, checked: every picture is there and fits its labels.

    Args:
        root: the folder that holds `labels` and `CODrone`.
        split: "train", "val" or "test".
        polygons: "union" of a target's polygons, or only the "first" (the published reading).
        skip_bad_records: leave bad records out, counted and listed in the log.

    Raises:
        UserError: folder, split or label file missing, or labels that are no list in JSON.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    if polygons not in POLYGON_RULES:
        raise UserError(f"polygons is {polygons!r}; known are {', '.join(POLYGON_RULES)}")
    file = label_file(root, split)
    reader = _Reader(root, split, file, polygons)
    samples: list[Sample] = []
    bad: list[str] = []
    for position, record in enumerate(read_records(file)):
        try:
            samples.extend(reader.samples(position, record, len(samples)))
        except BadRecord as error:
            if not skip_bad_records:
                raise
            bad.append(str(error))
    if bad:
        log.warning("%s: %d bad records skipped:\n  %s", file, len(bad), "\n  ".join(bad))
    if reader.rescaled:
        log.warning("%s: %d records have pictures of another size; their polygons are scaled", file, reader.rescaled)
    if not samples:
        raise UserError(f"{file}: no usable record in it")
    return samples


def label_file(root: Path, split: str) -> Path:
    """The label file of a split.

    Raises:
        UserError: the folder or the split is missing; the splits that are there are listed.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: no such data folder; `python -m utils.mini_drseg --out data/DRSeg-mini` makes a small one, "
            "data/README.md says how to get DRSeg"
        )
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
    """Turns records of one file into samples; looks at every picture's header once."""

    def __init__(self, root: Path, split: str, file: Path, polygons: str) -> None:
        self.images = root / "CODrone" / f"DR{split}"
        self.file, self.polygons = file, polygons
        self.sizes: dict[Path, tuple[int, int]] = {}
        self.rescaled = 0

    def samples(self, position: int, record: Any, first_index: int) -> Iterator[Sample]:
        where = f"{self.file}: record {position}"
        if not isinstance(record, dict):
            raise BadRecord(f"{where} is a {type(record).__name__}, expected an object")
        where += f" (id {record.get('id')!r})"
        for field, kind in REQUIRED.items():
            if field not in record:
                raise BadRecord(f"{where} lacks the field {field!r}")
            if not isinstance(record[field], kind) or isinstance(record[field], bool):
                raise BadRecord(f"{where}: {field} is {record[field]!r}, of the wrong type")
        height, width = record["height"], record["width"]
        if height < 1 or width < 1:
            raise BadRecord(f"{where}: its frame is {width}x{height} pixels")
        path = self.images / f"{record['id']}.jpg"
        self._check_picture(where, path, height, width)
        targets = tuple(self._target(where, i, one, height, width) for i, one in enumerate(record["ann_list"]))
        if not targets:
            raise BadRecord(f"{where} has no target (ann_list is empty)")
        questions = record["questions"]
        if not questions:
            raise BadRecord(f"{where} has no question")
        answers = _matching(where, record, "answers", len(questions))
        types = _matching(where, record, "reasoning_types", len(questions))
        altitude = record.get("altitude")
        if altitude is not None and not isinstance(altitude, int):
            raise BadRecord(f"{where}: altitude is {altitude!r}, expected whole metres")
        for i, question in enumerate(questions):
            if not isinstance(question, str) or not question.strip():
                raise BadRecord(f"{where}: question {i} is empty or no text")
            if types[i] is not None and types[i] not in REASONING_TYPES:
                raise BadRecord(f"{where}: reasoning type {types[i]!r}; known are {', '.join(REASONING_TYPES)}")
            yield Sample(
                image_path=path,
                question=question.strip(),
                answer=answers[i],
                targets=targets,
                height=height,
                width=width,
                reasoning_type=types[i],
                altitude=altitude,
                dataset=NAME,
                record_id=str(record["id"]),
                index=first_index + i,
            )

    def _check_picture(self, where: str, path: Path, height: int, width: int) -> None:
        if path not in self.sizes:
            self.sizes[path] = picture_size(where, path)
        seen_width, seen_height = self.sizes[path]
        if (seen_width, seen_height) == (width, height):
            return
        if abs(seen_width * height / (seen_height * width) - 1) > PROPORTION_TOLERANCE:
            raise BadRecord(
                f"{where}: {path} is {seen_width}x{seen_height}, but the labels were drawn on {width}x{height}; "
                "the proportions contradict each other"
            )
        self.rescaled += 1

    def _target(self, where: str, number: int, annotation: Any, height: int, width: int) -> tuple[Polygon, ...]:
        where = f"{where}, target {number}"
        if not isinstance(annotation, dict) or "segmentation" not in annotation:
            raise BadRecord(f"{where} lacks the field 'segmentation'")
        segmentation = annotation["segmentation"]
        if not isinstance(segmentation, list) or not segmentation:
            raise BadRecord(f"{where}: segmentation is empty or no list")
        polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
        if self.polygons == "first":
            polygons = polygons[:1]
        return tuple(checked_polygon(f"{where}, polygon {i}", one, height, width) for i, one in enumerate(polygons))


def picture_size(where: str, path: Path) -> tuple[int, int]:
    """(width, height) from the picture's header alone.

    Raises:
        BadRecord: the picture is missing or no picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except FileNotFoundError as error:
        raise BadRecord(f"{where}: its picture {path} is missing") from error
    except (UnidentifiedImageError, OSError) as error:
        raise BadRecord(f"{where}: {path} cannot be read as a picture ({error})") from error


def checked_polygon(where: str, values: Any, height: int, width: int) -> Polygon:
    """A polygon's coordinates; what overhangs the frame is cut off when the mask is drawn.

    Raises:
        BadRecord: fewer than 3 points, not numbers, outside the frame, or without area.
    """
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values) or len(values) % 2:
        raise BadRecord(f"{where}: expected a list of x, y numbers")
    if len(values) < 6:
        raise BadRecord(f"{where} has {len(values) // 2} points; a polygon needs 3")
    xs, ys = values[0::2], values[1::2]
    if max(xs) <= 0 or max(ys) <= 0 or min(xs) >= width or min(ys) >= height:
        raise BadRecord(f"{where} lies wholly outside the frame of {width}x{height}")
    doubled = sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(zip(xs, ys, strict=True)))
    if doubled == 0:
        raise BadRecord(f"{where} has no area")
    return tuple(float(value) for value in values)


def _matching(where: str, record: dict[str, Any], field: str, count: int) -> list[Any]:
    values = record.get(field)
    if values is None:
        return [None] * count
    if not isinstance(values, list) or len(values) != count:
        raise BadRecord(f"{where}: {field} has not one entry for each of the {count} questions")
    return values
