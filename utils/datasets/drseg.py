"""DRSeg in its published layout.

    ROOT/labels/DRSeg_{train,val,test}.json
    ROOT/CODrone/DR{train,val,test}/{id}.jpg

A record is `{id, height, width, ann_list: [{segmentation}], questions, answers, reasoning_types}` with
an optional `altitude` in metres, rounded to whole ones; a record whose questions have no answer in the picture has an
empty `ann_list` and `"no_target": true` (an extension of the published format). A segmentation is one polygon
`[x, y, …]` or a list of them. Answers and reasoning types are in the order of the questions; null means none.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from model.masks import Polygon, polygons_rle
from utils.datasets.base import (
    CLEAN,
    GENERAL_METRICS,
    OFFICIAL,
    BadRecord,
    DatasetSpec,
    Sample,
    ScoringRules,
)
from utils.datasets.checks import (
    MAX_COORDINATE,
    checked_frame,
    checked_polygon,
    checked_question_text,
    crossing_polygons,
    shortened,
    without_none,
)
from utils.datasets.layout import NotThere
from utils.datasets.reading import Reading, SplitReader
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import entries, is_file
from utils.runtime.text import lone_surrogate

log = logging.getLogger(__name__)

ALTITUDE = "altitudes that are no number of metres"
KIND = "reasoning types that are not known"

NAME = "drseg"
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


def load_drseg(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """All samples of a split, checked: every picture is there and fits its labels.

    Args:
        root: the folder that holds `labels` and `CODrone`.
        split: "train", "val" or "test".
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: the split's label file is missing, or holds no list in JSON.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    file = label_file(root, split)
    reader = _Reader(root, split, file, reading, skipped)
    records = read_records(file)
    for position, (record, keys) in enumerate(zip(records, question_keys(records), strict=True)):
        with reader.split.record():
            reader.add(position, record, keys)
    reader.log_oddities()
    return reader.split.finish()


def label_file(root: Path, split: str) -> Path:
    """The label file of a split.

    Raises:
        NotThere: the split is missing, those that are there being listed.
        UserError: it may not be read.
    """
    file = root / "labels" / f"DRSeg_{split}.json"
    if not is_file(file):
        there = [path for path in entries(file.parent) if path.name.startswith("DRSeg_") and path.suffix == ".json"]
        found = [path.stem.removeprefix("DRSeg_") for path in there]
        raise NotThere(f"{file}: no such split; in {root} there are: {', '.join(found) or 'none'}")
    return file


def question_keys(records: list[Any]) -> list[list[str]]:
    """`Sample.key` of each record's questions: its id, numbered where several questions of the file stand under it.

    Counted over all records, so that a key does not depend on which of them are used.
    """
    ids, counts = [], []
    for record in records:
        known = record if isinstance(record, dict) else {}
        questions = known.get("questions")
        ids.append(str(known.get("id")))
        counts.append(len(questions) if isinstance(questions, list) else 1)
    under: Counter[str] = Counter()
    for name, count in zip(ids, counts, strict=True):
        under[name] += count
    met: Counter[str] = Counter()
    keys = []
    for name, count in zip(ids, counts, strict=True):
        keys.append([name if under[name] == 1 else f"{name}#{met[name] + i}" for i in range(count)])
        met[name] += count
    return keys


def read_records(file: Path) -> list[Any]:
    """The list in a label file.

    Raises:
        UserError: it may not be read, is not JSON, or not a list.
    """
    records = read_json(file, strict=False)  # what is odd in a record is that record's fault
    if not isinstance(records, list):
        raise UserError(f"{file}: holds a {type(records).__name__}, expected a list of records")
    return records


class _Reader:
    """Turns records of one file into samples."""

    def __init__(self, root: Path, split: str, file: Path, reading: Reading, skipped: list[str] | None) -> None:
        self.images = root / "CODrone" / f"DR{split}"
        self.file, self.polygons = file, reading.polygons
        self.split = SplitReader(file, reading, skipped)
        self.odd: dict[str, list[str]] = {ALTITUDE: [], KIND: []}  # values that cost a group, not the record
        self.crossing: list[str] = []  # polygons that cross themselves, of records that are used

    def add(self, position: int, record: Any, keys: list[str]) -> None:
        """One sample a question."""
        check_fields(f"{self.file}: record {position}", record)
        name = f"record {position} (id {shortened(record['id'])})"
        where = f"{self.file}: {name}"
        frame = checked_frame(where, record["height"], record["width"])
        photograph = self.split.photograph(where, self._picture(where, record["id"]), frame)
        check_target_count(where, record)
        targets = tuple(
            self._target(f"{where}, target {i}", annotation, frame, self.split.size(photograph))
            for i, annotation in enumerate(record["ann_list"])
        )
        height = whole_metres(record.get("altitude"))
        if height is None and record.get("altitude") is not None:
            self.odd[ALTITUDE].append(f"{shortened(record['altitude'])} in {name}")
        for kind in record["reasoning_types"]:
            if not is_reasoning_type(kind):
                self.odd[KIND].append(f"{shortened(kind)} in {name}")
        crossing = crossing_polygons(name, targets)
        first = len(self.split.samples)
        self.split.samples += [
            Sample(
                image_path=photograph.path,
                question=question,
                answer=answer,
                targets=targets,
                height=frame[0],
                width=frame[1],
                dataset=NAME,
                record_id=str(record["id"]),
                index=first + i,
                groups=without_none(reasoning_type=kind, altitude=height),
                source=where,
                key=keys[i],
                picture_size=photograph.picture_size,
                upright=photograph.upright,
            )
            for i, (question, answer, kind) in enumerate(checked_questions(where, record))
        ]
        self.crossing += crossing

    def _picture(self, where: str, name: str | int) -> Path:
        if broken := lone_surrogate(str(name)):
            raise BadRecord(f"{where}: its id holds {broken}")
        path = self.images / f"{name}.jpg"
        if not os.path.normpath(path).startswith(os.path.normpath(self.images) + os.sep):
            raise BadRecord(f"{where}: its picture would lie outside {self.images}")
        return path

    def log_oddities(self) -> None:
        """Tell what was read in another way than it is written, once for the file."""
        for what, found in self.odd.items():
            if found:
                log.warning("%s: %d %s, the first %s; counted in no such group", self.file, len(found), what, found[0])
        if self.crossing:
            log.warning(
                "%s: %d polygons cross themselves, the first %s; they are drawn as they are, and what such an outline "
                "goes round twice is outside",
                *(self.file, len(self.crossing), self.crossing[0]),
            )

    def _target(
        self, where: str, annotation: Any, frame: tuple[int, int], picture: tuple[int, int]
    ) -> tuple[Polygon, ...]:
        if not isinstance(annotation, dict) or "segmentation" not in annotation:
            raise BadRecord(f"{where} lacks the field 'segmentation'")
        segmentation = annotation["segmentation"]
        if not isinstance(segmentation, list):
            raise BadRecord(f"{where}: segmentation is {shortened(segmentation)}, expected polygons in a list")
        if not segmentation:
            raise BadRecord(f"{where}: segmentation is empty")
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
    where += f" (id {shortened(record.get('id'))})"
    for field, (kinds, expected) in REQUIRED.items():
        if field not in record:
            raise BadRecord(f"{where} lacks the field {field!r}")
        if type(record[field]) not in kinds:  # isinstance would let true pass for 1
            raise BadRecord(f"{where}: {field} is {shortened(record[field])}, expected {expected}")


def check_target_count(where: str, record: dict[str, Any]) -> None:
    """Check that a record has targets, or says itself that it has none.

    Raises:
        BadRecord: the two contradict each other.
    """
    if record.get("no_target", False) not in (True, False):
        raise BadRecord(f"{where}: no_target is {shortened(record['no_target'])}, expected true or false")
    if record.get("no_target", False) is not (not record["ann_list"]):
        told = "no_target is true, but it has targets" if record["ann_list"] else "has no target (ann_list is empty)"
        cure = "" if record["ann_list"] else '; where that is meant, it says "no_target": true'
        raise BadRecord(f"{where} {told}{cure}")


def checked_questions(where: str, record: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """Question, answer and reasoning type (None where it is not known) of every question of a record.

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
    for i, (question, answer, _) in enumerate(rows):
        checked_question_text(f"{where}: question {i}", question)
        if answer is not None and not isinstance(answer, str):
            raise BadRecord(f"{where}: answer {i} is {shortened(answer)}, expected a text or null")
    return [(question.strip(), answer, kind if is_reasoning_type(kind) else None) for question, answer, kind in rows]


def is_reasoning_type(kind: Any) -> bool:
    """Whether a reasoning type is a known one or null."""
    return kind is None or (isinstance(kind, str) and kind in REASONING_TYPES)


def whole_metres(altitude: Any) -> int | None:
    """An altitude for its group, rounded to whole metres; None where it is no number of them."""
    if type(altitude) not in (int, float) or not abs(altitude) <= MAX_COORDINATE:  # so that NaN is none either
        return None
    return round(altitude)


SPEC = DatasetSpec(
    name=NAME,
    splits=("train", "val", "test"),
    layout="labels/DRSeg_{split}.json\nCODrone/DR{split}/{id}.jpg",
    source="`python -m utils.download --what drseg`, or `python -m utils.mini_drseg --out DIR` for a small drawn one",
    loader=load_drseg,
    rules={
        CLEAN: ScoringRules(GENERAL_METRICS),
        "hungarian": ScoringRules(GENERAL_METRICS, matching="hungarian"),
        OFFICIAL: ScoringRules(
            ("giou", "ciou", "correct25", "correct50"),
            note="the published reading takes the first polygon of a target alone (--polygons first); its `correct` is "
            "told as above 25 %, once of a count at 25 and once of one at 50",
        ),
    },
    no_target=True,
    group_titles={"reasoning_type": "reasoning type", "altitude": "altitude (m)"},
)
