"""DRSeg in its published layout.

    ROOT/labels/DRSeg_{train,val,test}.json
    ROOT/CODrone/DR{train,val,test}/{id}.jpg

A record is `{id, height, width, ann_list: [{segmentation}], questions, answers, reasoning_types}` with
an optional `altitude` in metres, rounded to whole ones; a segmentation is one polygon `[x, y, …]` or a list
of them. Answers and reasoning types are in the order of the questions; null means none.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from model.inputs.picture_files import AS_STORED, PictureHeader, read_header
from model.language.tokens import checked_question
from model.masks import Polygon, polygons_rle
from utils.datasets.base import BadRecord, DatasetSpec, Sample
from utils.datasets.crossings import crosses_itself
from utils.datasets.picture_names import PictureFinder
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import entries, is_file
from utils.runtime.text import lone_surrogate

log = logging.getLogger(__name__)

ALTITUDE = "altitudes that are no number of metres"
KIND = "reasoning types that are not known"

NAME = "drseg"
POLYGON_RULES = ("union", "first")
ORIENTATIONS = ("check", "apply", "stored")
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


def load_drseg(
    root: Path,
    split: str,
    polygons: str = "union",
    skip_bad_records: bool = False,
    orientation: str = "check",
    skipped: list[str] | None = None,
) -> list[Sample]:
    """All samples of a split, checked: every picture is there and fits its labels.

    Args:
        root: the folder that holds `labels` and `CODrone`.
        split: "train", "val" or "test".
        polygons: "union" of a target's polygons, or only the "first" (the published reading).
        skip_bad_records: leave bad records out, counted and listed in the log.
        orientation: of pictures with an orientation tag: "apply" it or leave them as "stored", whichever the labels
            were drawn on; "check" refuses a record whose frame does not tell that it was the stored pixels.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: the split's label file is missing, or holds no list in JSON.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    if polygons not in POLYGON_RULES:
        raise UserError(f"polygons is {polygons!r}; known are {', '.join(POLYGON_RULES)}")
    if orientation not in ORIENTATIONS:
        raise UserError(f"orientation is {orientation!r}; known are {', '.join(ORIENTATIONS)}")
    file = label_file(root, split)
    reader = _Reader(root, split, file, polygons, orientation, decode=skip_bad_records)
    samples: list[Sample] = []
    bad: list[str] = []
    rescaled = 0
    records = read_records(file)
    for position, (record, keys) in enumerate(zip(records, question_keys(records), strict=True)):
        try:
            found, scaled = reader.samples(position, record, keys, len(samples))
        except BadRecord as error:
            if not skip_bad_records:
                raise BadRecord(f"{error}; mend it, or pass --skip-bad-records to go on without it") from error
            bad.append(str(error).removeprefix(f"{file}: "))
            continue
        samples.extend(found)
        rescaled += scaled
    if bad:
        log.warning("%s: %d bad records skipped:\n  %s", file, len(bad), "\n  ".join(bad))
        if skipped is not None:
            skipped += bad
    reader.log_oddities()
    if rescaled:
        log.warning("%s: %d records have pictures of another size; their polygons are scaled", file, rescaled)
    if reader.crossing:
        log.warning(
            "%s: %d polygons cross themselves, the first %s; they are drawn as they are, and what such an outline "
            "goes round twice is outside",
            file,
            len(reader.crossing),
            reader.crossing[0],
        )
    if not samples:
        raise UserError(f"{file}: no usable record in it; fetch or make the data again (data/README.md)")
    return samples


def label_file(root: Path, split: str) -> Path:
    """The label file of a split.

    Raises:
        UserError: the split is missing, those that are there being listed, or may not be read.
    """
    file = root / "labels" / f"DRSeg_{split}.json"
    if not is_file(file):
        there = [path for path in entries(file.parent) if path.name.startswith("DRSeg_") and path.suffix == ".json"]
        found = [path.stem.removeprefix("DRSeg_") for path in there]
        raise UserError(f"{file}: no such split; in {root} there are: {', '.join(found) or 'none'}")
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
    """Turns records of one file into samples; reads every picture's header once.

    With `decode` pictures are decoded: a truncated one is then a bad record, not an error during training.
    """

    def __init__(self, root: Path, split: str, file: Path, polygons: str, orientation: str, decode: bool) -> None:
        self.images = root / "CODrone" / f"DR{split}"
        self.pictures = PictureFinder()
        self.odd: dict[str, list[str]] = {ALTITUDE: [], KIND: []}  # values that cost a group, not the record
        self.file, self.polygons, self.orientation, self.decode = file, polygons, orientation, decode
        self.headers: dict[Path, PictureHeader] = {}
        self.crossing: list[str] = []  # polygons that cross themselves, of records that are used

    def samples(self, position: int, record: Any, keys: list[str], first_index: int) -> tuple[list[Sample], bool]:
        """One sample a question, and whether the picture has another size than the labels' frame."""
        check_fields(f"{self.file}: record {position}", record)
        name = f"record {position} (id {shortened(record['id'])})"
        where = f"{self.file}: {name}"
        frame = (record["height"], record["width"])
        path = self._picture(where, record["id"])
        upright = self._upright(where, path, frame)
        picture = self.headers[path].size(upright)
        if not record["ann_list"]:
            raise BadRecord(f"{where} has no target (ann_list is empty)")
        targets = tuple(
            self._target(f"{where}, target {i}", annotation, frame, picture)
            for i, annotation in enumerate(record["ann_list"])
        )
        height = whole_metres(record.get("altitude"))
        if height is None and record.get("altitude") is not None:
            self.odd[ALTITUDE].append(f"{shortened(record['altitude'])} in {name}")
        for kind in record["reasoning_types"]:
            if not is_reasoning_type(kind):
                self.odd[KIND].append(f"{shortened(kind)} in {name}")
        crossing = crossing_polygons(name, targets)
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
                groups=without_none(reasoning_type=kind, altitude=height),
                source=where,
                key=keys[i],
                picture_size=None if picture == frame else picture,
                upright=upright,
            )
            for i, (question, answer, kind) in enumerate(checked_questions(where, record))
        ]
        self.crossing += crossing
        return samples, picture != frame

    def _picture(self, where: str, name: str | int) -> Path:
        if broken := lone_surrogate(str(name)):
            raise BadRecord(f"{where}: its id holds {broken}")
        path = self.images / f"{name}.jpg"
        if not os.path.normpath(path).startswith(os.path.normpath(self.images) + os.sep):
            raise BadRecord(f"{where}: its picture would lie outside {self.images}")
        return self.pictures.find(where, path)

    def log_oddities(self) -> None:
        """Tell what was read in another way than it is written, once for the file."""
        for what, found in self.odd.items():
            if found:
                log.warning("%s: %d %s, the first %s; counted in no such group", self.file, len(found), what, found[0])
        if self.pictures.otherwise:
            wanted, found = next(iter(self.pictures.otherwise.items()))
            log.warning(
                "%s: %d pictures are named otherwise than their records say, the first %a for %a",
                *(self.file, len(self.pictures.otherwise), found.name, wanted.name),
            )

    def _upright(self, where: str, path: Path, frame: tuple[int, int]) -> bool:
        """Whether the picture's orientation tag is to be applied, so that it lies as its labels do.

        Raises:
            BadRecord: the picture cannot be used, its proportions are not the labels', or its tag leaves it open.
        """
        if path not in self.headers:
            self.headers[path] = picture_header(where, path, self.decode)
        header = self.headers[path]
        turned, stored = (same_proportions(header.size(upright), frame) for upright in (True, False))
        tagged = header.orientation != AS_STORED
        wanted = {"apply": turned, "stored": stored, "check": turned or stored}[self.orientation]
        if not wanted:
            height, width = header.size(self.orientation == "apply")
            quarter = same_proportions((width, height), frame)
            raise BadRecord(
                f"{where}: {path} is {width}x{height} pixels, but the labels were drawn on "
                f"{frame[1]}x{frame[0]}; the proportions contradict each other"
                + (f" (its orientation tag is {header.orientation})" if tagged else "")
                + (" (its pixels may need the turn that its orientation tag asks for)" if quarter else "")
            )
        if tagged and turned and self.orientation == "check":
            raise BadRecord(
                f"{where}: {path} has the orientation tag {header.orientation}, and the labels' frame of "
                f"{frame[1]}x{frame[0]} fits its pixels {'stored or turned' if stored else 'only when turned'}; "
                "pass --orientation apply if labels were drawn on the picture as viewers show it, --orientation "
                "stored if on the pixels as stored, or bake the turn into the file (exiftran -ai FILE)"
            )
        return self.orientation == "apply" or not tagged

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
    if not all(1 <= record[side] <= MAX_COORDINATE for side in ("height", "width")):
        raise BadRecord(f"{where}: its frame is {shortened(record['width'])}x{shortened(record['height'])} pixels")


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
        if not isinstance(question, str) or not question.strip():
            raise BadRecord(f"{where}: question {i} is {shortened(question)}, expected a text")
        try:
            checked_question(question)
        except ValueError as error:
            raise BadRecord(f"{where}: question {i} {shortened(question)}: {error}") from error
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


def without_none(**values: Any) -> dict[str, Any]:
    """The groups that have a value."""
    return {name: value for name, value in values.items() if value is not None}


def shortened(value: Any) -> str:
    """The repr of a value for a message, at most 60 characters."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= 60 else f"{text[:57]}..."


def same_proportions(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (height, width) differ by scale alone."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= PROPORTION_TOLERANCE


def picture_header(where: str, path: Path, decode: bool = False) -> PictureHeader:
    """The header of a record's picture; `decode` decodes it too.

    Raises:
        BadRecord: the picture is missing, or cannot be read.
    """
    try:
        return read_header(path, decode)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BadRecord(f"{where}: its picture {path} is missing") from error
        raise BadRecord(f"{where}: {error}") from error


def checked_polygon(where: str, values: Any, frame: tuple[int, int]) -> Polygon:
    """A polygon's coordinates; what overhangs the frame is cut off when the mask is drawn.

    Raises:
        BadRecord: fewer than 3 points, no numbers, wholly outside the frame, or without area.
    """
    if not isinstance(values, list) or len(values) % 2 or not all(type(v) in (int, float) for v in values):
        raise BadRecord(f"{where} is {shortened(values)}, expected a list of numbers x, y, x, y, …")
    if not all(abs(v) <= MAX_COORDINATE for v in values):  # nor is NaN
        raise BadRecord(f"{where} has a coordinate that is no pixel's")
    if len(values) < 6:
        raise BadRecord(f"{where} has {len(values) // 2} points; a polygon needs 3")
    xs, ys = values[0::2], values[1::2]
    if max(xs) <= 0 or max(ys) <= 0 or min(xs) >= frame[1] or min(ys) >= frame[0]:
        raise BadRecord(f"{where} lies wholly outside the frame of {frame[1]}x{frame[0]}")
    polygon = tuple(float(value) for value in values)
    empty = abs(signed_area(values)) < 1e-6 and not crosses_itself(polygon)
    if empty and not coco.area(polygons_rle((polygon,), frame, frame)):
        raise BadRecord(f"{where} has no area")
    return polygon


def crossing_polygons(where: str, targets: tuple[tuple[Polygon, ...], ...]) -> list[str]:
    """What messages call the polygons that cross themselves."""
    return [
        f"{where}, target {t}, polygon {p}"
        for t, target in enumerate(targets)
        for p, polygon in enumerate(target)
        if crosses_itself(polygon)
    ]


def signed_area(polygon: list[float]) -> float:
    """The area that a polygon encloses, negative where its points run the other way round.

    Parts of one that crosses itself may cancel each other.
    """
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
