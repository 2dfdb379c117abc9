"""Pictures with labelme's JSON file beside each.

    ROOT/{split}/*.json      or ROOT/**/*.json, of which splits are then drawn (utils.datasets.drawn_splits)
    ROOT/…                   the picture that `imagePath` names, counted from the JSON file, or beside it

A file is `{imagePath, imageHeight, imageWidth, flags, shapes: [{label, points, shape_type, group_id, description,
flags}]}`. Shapes of one label and group_id are one object. Questions are the shapes' `description`s and the names of
their flags that are set; shapes with the same one are its targets. A flag of the file that is set is a question about
all its shapes, and one that nothing in the picture answers where there are none. Where no file has a question, they are
made of the labels (utils.datasets.made_questions).
"""

from __future__ import annotations

import base64
import binascii
import math
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.masks import encode_mask
from utils.datasets.base import CLEAN, GENERAL_METRICS, BadRecord, DatasetSpec, Sample, ScoringRules, Target
from utils.datasets.checks import checked_frame, checked_question_text, shortened
from utils.datasets.drawn_splits import ALL, DRAWN, SPLITS_FILE, pictures_of_split, spellings
from utils.datasets.formats.own_coco_files import find_picture
from utils.datasets.labelled import (
    GROUP_TITLES,
    OPTIONS_FILE,
    AskedQuestion,
    LabelledObject,
    LabelledPicture,
    as_one,
    samples_of,
)
from utils.datasets.layout import NotThere, missing_part
from utils.datasets.reading import Reading, SplitReader
from utils.datasets.segmentations import checked_segmentation
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import is_folder

NAME = "labelme"
LAYOUT = """{split}/*.json, or *.json in any folder, from which splits are drawn
{split}/*.jpg, *.png, …: the picture that each file's imagePath names"""
SOURCE = "your own labels: labelme's JSON files beside the pictures (utils/datasets/OWN_MASKS.md)"
CIRCLE_POINTS = 64  # the polygon's area is 0.2 % less than the circle's


def load_labelme(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """All samples of a split.

    Args:
        root: the folder of pictures and JSON files.
        split: a folder in it, `all`, or a drawn one.
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    files = sidecars(root, split)
    if not files:
        raise missing_part(root, root / "*.json", LAYOUT, SOURCE)
    reader = SplitReader(root, reading, skipped)
    pictures = [_read_sidecar(root, file, reading.polygons) for file in files]
    return samples_of(pictures, reader, root, NAME)


def sidecars(root: Path, split: str) -> list[Path]:
    """The JSON files of a split: those of its folder, or drawn of all.

    Raises:
        UserError: other splits have folders and this one has none.
    """
    for name in spellings(split):
        if split != ALL and is_folder(root / name):
            return sorted((root / name).rglob("*.json"))
    named = [name for usual in DRAWN for name in spellings(usual) if is_folder(root / name)]
    if named and split != ALL:
        raise NotThere(f"{root}: no split {split!r}; there are the folders {', '.join(named)}, and {ALL} is everything")
    files = [file for file in sorted(root.rglob("*.json")) if file.name not in (SPLITS_FILE, OPTIONS_FILE)]
    if not files or split == ALL:
        return files
    names = {file.relative_to(root).with_suffix("").as_posix(): file for file in files}
    chosen = pictures_of_split(root, names, split)
    return [file for name, file in names.items() if name in chosen]


def _read_sidecar(root: Path, file: Path, polygons: str) -> LabelledPicture:
    name = file.relative_to(root).with_suffix("").as_posix()
    try:
        table = read_json(file, strict=False)
        if not isinstance(table, dict) or not isinstance(table.get("shapes"), list):
            raise BadRecord(f"{file}: no file of labelme's, for it has no list 'shapes'")
        path = find_picture(str(file), table.get("imagePath"), picture_folders(root, file, table.get("imagePath")))
        if not path.exists() and (beside := _picture_beside(file)):
            path = beside
        frame = checked_frame(str(file), table.get("imageHeight"), table.get("imageWidth"))
        objects, asked = _Shapes(file, name, frame, polygons).read(table)
        return LabelledPicture(str(file), name, path, frame, objects, asked)
    except UserError as error:
        fault = error if isinstance(error, BadRecord) else BadRecord(str(error))
        return LabelledPicture(str(file), name, file, (1, 1), fault=fault)


def picture_folders(root: Path, file: Path, name: Any) -> list[Path]:
    """Where a file's picture may lie: where its path leads, if that is in the data set, and beside it."""
    folders = [file.parent, root / "images", root]
    if isinstance(name, str) and "\0" not in name:
        meant = Path(os.path.normpath(file.parent / name.replace("\\", "/"))).parent
        if meant.is_relative_to(os.path.normpath(root)):
            folders.insert(0, meant)
    return folders


def _picture_beside(file: Path) -> Path | None:
    """The picture of the JSON file's own name, where it was renamed after it was labelled."""
    found = [one for one in sorted(file.parent.glob("*")) if one.stem == file.stem and one != file]
    return found[0] if len(found) == 1 else None


class _Shapes:
    """The shapes of a file as objects, and the questions that they carry."""

    def __init__(self, file: Path, name: str, frame: tuple[int, int], polygons: str) -> None:
        self.file, self.name, self.frame, self.polygons = file, name, frame, polygons

    def read(self, table: dict[str, Any]) -> tuple[list[LabelledObject], list[AskedQuestion]]:
        """Objects in the order of their first shapes.

        Raises:
            BadRecord: a shape has no label, or a question is no text.
        """
        parts: dict[Any, list[Target | BadRecord]] = {}
        labels: dict[Any, str] = {}
        answering: dict[str, list[Any]] = {}
        for i, shape in enumerate(table["shapes"]):
            where = f"{self.file}: shape {i}"
            label = shape.get("label") if isinstance(shape, dict) else None
            if not isinstance(label, str) or not label.strip():
                raise BadRecord(f"{where}: label is {shortened(label)}, expected a text")
            group = shape.get("group_id")
            key = (label, group) if isinstance(group, (int, str)) else i
            labels[key] = label.strip().replace("_", " ").lower()
            parts.setdefault(key, []).append(self._target(f"{where} ({shortened(label)})", shape))
            for text in self._texts(where, shape):
                if key not in answering.setdefault(text, []):
                    answering[text].append(key)
        place = {key: i for i, key in enumerate(parts)}
        objects = [LabelledObject(labels[key], self._union(targets)) for key, targets in parts.items()]
        asked = [(text, tuple(place[key] for key in keys)) for text, keys in answering.items()]
        asked += [(text, tuple(range(len(objects)))) for text in set_flags(f"{self.file}: flags", table.get("flags"))]
        return objects, [AskedQuestion(f"{self.name}:{i}", text, of) for i, (text, of) in enumerate(asked)]

    def _union(self, targets: list[Target | BadRecord]) -> Target | BadRecord:
        faults = [one for one in targets if isinstance(one, BadRecord)]
        return faults[0] if faults else targets[0] if len(targets) == 1 else as_one(targets, self.frame)

    def _texts(self, where: str, shape: dict[str, Any]) -> list[str]:
        described = shape.get("description")
        texts = [] if described in (None, "") else [checked_question_text(f"{where}: description", described)]
        return texts + set_flags(f"{where}: flags", shape.get("flags"))

    def _target(self, where: str, shape: dict[str, Any]) -> Target | BadRecord:
        try:
            kind, points = shape.get("shape_type", "polygon"), checked_points(where, shape.get("points"))
            if kind == "mask":
                return self._mask(where, points, shape.get("mask"))
            if not isinstance(kind, str):
                raise BadRecord(f"{where}: shape_type is {shortened(kind)}, expected a text")
            if kind not in OUTLINES:
                known = ", ".join([*OUTLINES, "mask"])
                raise BadRecord(f"{where}: a shape of the kind {shortened(kind)} encloses no area; known are {known}")
            return checked_segmentation(where, [OUTLINES[kind](where, points)], self.frame, self.polygons)
        except BadRecord as error:
            return error

    def _mask(self, where: str, points: list[tuple[float, float]], data: Any) -> Target:
        """What labelme's AI tools make: a small picture in base64, and the corners of its place."""
        try:
            with Image.open(BytesIO(base64.b64decode(data, validate=True))) as picture:
                small = np.asarray(picture.convert("L")) > 0
        except (TypeError, binascii.Error, OSError, ValueError) as error:
            raise BadRecord(f"{where}: its mask cannot be read ({error})") from error
        if not points:
            raise BadRecord(f"{where}: its mask has no place")
        left, top = round(points[0][0]), round(points[0][1])
        whole = np.zeros(self.frame, np.uint8)
        if left < 0 or top < 0 or left + small.shape[1] > self.frame[1] or top + small.shape[0] > self.frame[0]:
            raise BadRecord(f"{where}: its mask of {small.shape[1]}x{small.shape[0]} at ({left}, {top}) overhangs")
        whole[top : top + small.shape[0], left : left + small.shape[1]] = small
        if not whole.any():
            raise BadRecord(f"{where} covers no pixel of the picture")
        return encode_mask(whole)


def set_flags(where: str, flags: Any) -> list[str]:
    """The names of the flags that are set, as questions.

    Raises:
        BadRecord: one cannot be asked.
    """
    if not isinstance(flags, dict):
        return []
    return [checked_question_text(where, name) for name, on in flags.items() if on is True]


def checked_points(where: str, points: Any) -> list[tuple[float, float]]:
    """A shape's points.

    Raises:
        BadRecord: they are no pairs of finite numbers.
    """
    good = isinstance(points, list) and all(
        isinstance(one, list) and len(one) == 2 and all(type(v) in (int, float) and math.isfinite(v) for v in one)
        for one in points
    )
    if not good:
        raise BadRecord(f"{where}: points are {shortened(points)}, expected a list of [x, y]")
    return [(float(x), float(y)) for x, y in points]


def _polygon(where: str, points: list[tuple[float, float]]) -> list[float]:
    return [value for point in points for value in point]


def _rectangle(where: str, points: list[tuple[float, float]]) -> list[float]:
    if len(points) == 4:  # as labelme has written them since version 6
        return _polygon(where, points)
    if len(points) != 2:
        raise BadRecord(f"{where}: a rectangle has {len(points)} points, expected two opposite corners")
    (left, top), (right, bottom) = points
    return [left, top, right, top, right, bottom, left, bottom]


def _circle(where: str, points: list[tuple[float, float]]) -> list[float]:
    if len(points) != 2:
        raise BadRecord(f"{where}: a circle has {len(points)} points, expected its centre and one on it")
    (x, y), radius = points[0], math.dist(*points)
    turns = [2 * math.pi * i / CIRCLE_POINTS for i in range(CIRCLE_POINTS)]
    return [value for turn in turns for value in (x + radius * math.cos(turn), y + radius * math.sin(turn))]


OUTLINES = {"polygon": _polygon, "rectangle": _rectangle, "circle": _circle}

SPEC = DatasetSpec(
    name=NAME,
    splits=("train", "val", "test", ALL),
    layout=LAYOUT,
    source=SOURCE,
    loader=load_labelme,
    group_titles=GROUP_TITLES,
    rules={CLEAN: ScoringRules(GENERAL_METRICS)},
    no_target=True,
)
