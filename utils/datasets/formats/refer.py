"""What the data sets of the REFER family share: how their refs become samples.

Each sentence is a question: its `sent`, without the white space around it and in lower case, as LISA and the models
after it ask it (those after LAVT ask `raw`). `utils.datasets.formats.refer_labels` describes the files.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from model.masks import Polygon, polygons_rle
from utils.datasets.base import BadRecord, Sample, Target
from utils.datasets.checks import (
    MAX_COORDINATE,
    checked_frame,
    checked_polygon,
    checked_question_text,
    shortened,
    signed_area,
)
from utils.datasets.formats.refer_labels import (
    Labels,
    ReferSet,
    belongs,
    collector_paused,
    label_files,
    parsed,
    picture_folder,
    sentence_keys,
    sentences_of,
)
from utils.datasets.layout import NotThere, check_split_name
from utils.datasets.reading import Photograph, Reading, SplitReader
from utils.datasets.run_lengths import checked_rle, united
from utils.runtime.text import lone_surrogate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Referred:
    """What all sentences of a ref share."""

    where: str
    photograph: Photograph
    frame: tuple[int, int]
    targets: tuple[Target, ...]
    groups: Mapping[str, Any]


# What a data set makes of a ref's `ann_id`: the targets, and the groups that its sentences belong to.
Resolver = Callable[["ReferReader", str, dict[str, Any], tuple[int, int], Photograph], tuple[tuple[Target, ...], dict]]


def load_refer(
    data: ReferSet, resolve: Resolver, root: Path, split: str, reading: Reading, skipped: list[str] | None = None
) -> list[Sample]:
    """All sentences of a split, in the order of the refs file.

    Args:
        data: which data set.
        resolve: finds the targets of a ref.
        root: the folder that `data.layout` stands in, or the one of the labels in it.
        split: one of `data.splits`.
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: an unknown split, a file or the folder of pictures is missing, or labels hold something else.
        BadRecord: a ref or sentence that cannot be used, unless they are skipped.
    """
    check_split_name(data.name, split, data.splits)
    file, instances = label_files(data, root)
    labels = parsed(file, instances)
    chosen = [(i, ref) for i, ref in enumerate(labels.refs) if belongs(ref, split, data.lettered)]
    if not chosen:
        there = Counter(ref["split"] for ref in labels.refs if isinstance(ref, dict))
        listed = ", ".join(f"{name} ({count:,})" for name, count in there.items())
        raise NotThere(f"{file}: no ref of the split {split}; there are: {listed or 'none'}")
    reader = ReferReader(data, picture_folder(data, root), file, labels, reading, skipped)
    with collector_paused():
        for (position, ref), keys in zip(chosen, sentence_keys([ref for _, ref in chosen]), strict=True):
            reader.add(position, ref, keys, resolve)
    reader.tell(split, sum(len(sentences_of(ref)) for _, ref in chosen))
    return reader.split.finish()


class ReferReader:
    """Turns refs into samples, one a sentence."""

    def __init__(
        self, data: ReferSet, pictures: Path, file: Path, labels: Labels, reading: Reading, skipped: list[str] | None
    ) -> None:
        self.data, self.pictures, self.file, self.labels, self.reading = data, pictures, file, labels, reading
        self.split = SplitReader(file, reading, skipped)
        self.photographs: dict[int | str, tuple[Photograph, tuple[int, int]]] = {}
        self.undrawn: list[str] = []  # polygons without a pixel beside others of their object

    def add(self, position: int, ref: Any, keys: list[str], resolve: Resolver) -> None:
        """One sample a sentence; a bad sentence leaves the others of its ref."""
        referred = None
        with self.split.record():
            referred = self.referred(position, ref, resolve)
        if referred is None:
            return
        record_id = str(ref["ref_id"])
        for i, (sentence, key) in enumerate(zip(ref["sentences"], keys, strict=True)):
            with self.split.record():
                where = f"{referred.where}, sentence {i}"
                if not isinstance(sentence, dict) or type(sentence.get("sent_id")) not in (int, str):
                    raise BadRecord(f"{where} is {shortened(sentence)}, expected an object with sent_id and sent")
                self.split.samples.append(
                    Sample(
                        image_path=referred.photograph.path,
                        question=checked_question_text(where, sentence.get("sent")).lower(),
                        answer=None,
                        targets=referred.targets,
                        height=referred.frame[0],
                        width=referred.frame[1],
                        dataset=self.data.name,
                        record_id=record_id,
                        index=len(self.split.samples),
                        groups=referred.groups,
                        source=referred.where,
                        key=key,
                        picture_size=referred.photograph.picture_size,
                        upright=referred.photograph.upright,
                    )
                )

    def referred(self, position: int, ref: Any, resolve: Resolver) -> Referred:
        """What a ref's sentences share.

        Raises:
            BadRecord: it cannot be used.
        """
        where = f"{self.file}: ref {position}"
        if not isinstance(ref, dict):
            raise BadRecord(f"{where} is a {type(ref).__name__}, expected an object")
        where += f" (id {shortened(ref.get('ref_id'))})"
        for name in ("ref_id", "image_id"):
            if type(ref.get(name)) not in (int, str):
                raise BadRecord(f"{where}: {name} is {shortened(ref.get(name))}, expected a number or a text")
        if not isinstance(ref.get("split"), str):
            raise BadRecord(f"{where}: split is {shortened(ref.get('split'))}, expected a text")
        if not sentences_of(ref):
            raise BadRecord(f"{where} has no sentence")
        photograph, frame = self.photograph(where, ref["image_id"])
        targets, groups = resolve(self, where, ref, frame, photograph)
        return Referred(where, photograph, frame, targets, groups)

    def photograph(self, where: str, image_id: int | str) -> tuple[Photograph, tuple[int, int]]:
        """A picture by its id, and the (height, width) of the frame that its objects were drawn on.

        Raises:
            BadRecord: it is not among the images, or cannot be used.
        """
        if image_id not in self.photographs:
            image = self.labels.images.get(image_id)
            if image is None:
                raise BadRecord(f"{where}: its image_id {image_id!r} is none of the images in instances.json")
            where = f"{where}, image {image_id!r}"
            frame = checked_frame(where, image.get("height"), image.get("width"))
            path = picture_path(where, self.pictures, image.get("file_name"))
            self.photographs[image_id] = self.split.photograph(where, path, frame), frame
        return self.photographs[image_id]

    def annotation(self, where: str, ann_id: Any, ref: dict[str, Any]) -> dict[str, Any]:
        """An object that a ref names.

        Raises:
            BadRecord: it is not there, or lies in another picture than the ref's.
        """
        found = self.labels.annotations.get(ann_id) if type(ann_id) in (int, str) else None
        if found is None:
            raise BadRecord(f"{where}: its ann_id {shortened(ann_id)} is none of the annotations in instances.json")
        if found.get("image_id") != ref["image_id"]:
            raise BadRecord(
                f"{where}: its annotation {ann_id!r} lies in image {shortened(found.get('image_id'))}, but the ref "
                f"names image {ref['image_id']!r}"
            )
        return found

    def category(self, annotation: dict[str, Any]) -> str | None:
        """The name of an object's category, None where it has none."""
        number = annotation.get("category_id")
        name = self.labels.categories.get(number, {}).get("name") if type(number) in (int, str) else None
        return name if isinstance(name, str) else None

    def target(self, where: str, annotation: dict[str, Any], frame: tuple[int, int], photograph: Photograph) -> Target:
        """The pixels of an object: its polygons, or the union of its RLEs.

        Raises:
            BadRecord: there are none, or they cannot be drawn.
        """
        where = f"{where}, annotation {annotation['id']!r}"
        parts = annotation.get("segmentation")
        if isinstance(parts, dict) or (isinstance(parts, list) and parts and type(parts[0]) in (int, float)):
            parts = [parts]
        if not isinstance(parts, list) or not parts:
            raise BadRecord(f"{where}: its segmentation is {shortened(parts)}, expected polygons or RLEs in a list")
        if self.reading.polygons == "first":
            parts = parts[:1]
        if isinstance(parts[0], dict):
            rle = united([checked_rle(where, part, frame) for part in parts])
            if not coco.area(rle):
                raise BadRecord(f"{where} covers no pixel")
            return rle
        polygons = self.polygons(where, parts, frame)
        size = photograph.picture_size
        sure = size is None and any(surely_drawn(polygon, frame) for polygon in polygons)
        if not sure and not coco.area(polygons_rle(polygons, frame, size or frame)):
            raise BadRecord(f"{where} covers no pixel of the picture")
        return polygons

    def polygons(self, where: str, parts: list[Any], frame: tuple[int, int]) -> tuple[Polygon, ...]:
        """Those polygons of an object that have an area; others, which draw nothing, are left out where one has.

        Raises:
            BadRecord: none has, or a polygon is no list of numbers.
        """
        drawn, undrawn = [], []
        for i, part in enumerate(parts):
            try:
                drawn.append(checked_polygon(f"{where}, polygon {i}", part, frame))
            except BadRecord as error:
                if not draws_nothing(part):
                    raise
                undrawn.append(error)
        if not drawn:
            raise undrawn[0]
        self.undrawn += [str(error).removeprefix(f"{self.file}: ") for error in undrawn]
        return tuple(drawn)

    def tell(self, split: str, sentences: int) -> None:
        """What was read in another way than it is written, and a full set of another size than is said of it."""
        if self.undrawn:
            log.warning(
                "%s: %d polygons draw nothing and were left out of their objects, the first: %s",
                *(self.file, len(self.undrawn), self.undrawn[0]),
            )
        said = self.data.sentences.get(split, sentences)
        if sentences > said / 2 and sentences != said:
            log.warning(
                "%s: %s sentences in the split %s of %s, in the literature there are %s",
                *(self.file, f"{sentences:,}", split, self.data.name, f"{said:,}"),
            )


def one_object(
    reader: ReferReader, where: str, ref: dict[str, Any], frame: tuple[int, int], photograph: Photograph
) -> tuple[tuple[Target, ...], dict]:
    """The `Resolver` of sets whose refs name one object each.

    Raises:
        BadRecord: it is not there, or has no pixels.
    """
    return (reader.target(where, reader.annotation(where, ref.get("ann_id"), ref), frame, photograph),), {}


def picture_path(where: str, folder: Path, name: Any) -> Path:
    """A picture by its name, which may have folders in it.

    Raises:
        BadRecord: it is no name, or leads out of the folder.
    """
    if not isinstance(name, str) or not name:
        raise BadRecord(f"{where}: file_name is {shortened(name)}, expected the name of a picture")
    if broken := lone_surrogate(name):
        raise BadRecord(f"{where}: its file_name holds {broken}")
    path = folder / name
    if not os.path.normpath(path).startswith(os.path.normpath(folder) + os.sep):
        raise BadRecord(f"{where}: its picture {shortened(name)} would lie outside {folder}")
    return path


def draws_nothing(polygon: Any) -> bool:
    """Whether a polygon that was refused is whole pairs of numbers: too few, without area, or outside the frame."""
    if not isinstance(polygon, list) or len(polygon) % 2:
        return False
    return all(type(value) in (int, float) and abs(value) <= MAX_COORDINATE for value in polygon)


def surely_drawn(polygon: Polygon, frame: tuple[int, int]) -> bool:
    """Whether a polygon lies in the frame and is wide enough that no pixel's centre can be missed, without drawing."""
    xs, ys = polygon[0::2], polygon[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    inside = left >= 0 and top >= 0 and right <= frame[1] and bottom <= frame[0]
    return inside and abs(signed_area(polygon)) > 2 * (right - left + bottom - top)
