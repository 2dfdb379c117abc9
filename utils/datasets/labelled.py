"""Pictures with labelled objects into samples: by the questions that the labels hold, or by ones made of them.

What COCO files, labelme's and others have in common; each reads its own files into `LabelledPicture`s.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from model.inputs.picture_files import decoded, opened_picture
from model.masks import polygons_rle
from utils.datasets.base import BadRecord, Sample, Target
from utils.datasets.checks import shortened, without_none
from utils.datasets.made_questions import KINDS, MadeQuestion, MakeOptions, Thing, make_questions
from utils.datasets.mask_colours import colour_map, mask_colours
from utils.datasets.reading import Photograph, SplitReader
from utils.datasets.run_lengths import united
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import is_file

log = logging.getLogger(__name__)

OPTIONS_FILE = "made_questions.json"
GROUP_TITLES = {"question": "question", "category": "category"}
LOOK_SIDE = 1024  # pixels of the longer side at which places and colours are looked at
MOST_LOOKED_AT = 2000  # pictures that are decoded for their colours when a split is read, some minutes of work


@dataclass(frozen=True)
class LabelledObject:
    """A labelled object.

    Args:
        category: what it is called.
        target: its mask, or what is wrong with it.
        crowd: it stands for several of its kind that have no masks of their own.
    """

    category: str
    target: Target | BadRecord
    crowd: bool = False


@dataclass(frozen=True)
class AskedQuestion:
    """A question that the labels themselves hold.

    Args:
        key: unique in its split.
        text: the question.
        objects: indices of those that answer it, in their order; none where nothing in the picture does.
        answer: in words, or None.
        fault: what is wrong with it, or None.
    """

    key: str
    text: str
    objects: tuple[int, ...]
    answer: str | None = None
    fault: BadRecord | None = None


@dataclass
class LabelledPicture:
    """A picture, its objects and the questions about it.

    Args:
        where: file and record, for errors.
        name: unique in its split; keys of made questions begin with it.
        path: of the picture.
        frame: (height, width) that the labels were drawn on.
        objects: labelled in it.
        asked: questions that the labels hold.
        fault: what is wrong with its record as a whole, or None.
    """

    where: str
    name: str
    path: Path
    frame: tuple[int, int]
    objects: list[LabelledObject] = field(default_factory=list)
    asked: list[AskedQuestion] = field(default_factory=list)
    fault: BadRecord | None = None


def samples_of(pictures: Sequence[LabelledPicture], reader: SplitReader, root: Path, dataset: str) -> list[Sample]:
    """The samples of a split; where no picture holds a question, questions are made of the labels.

    Args:
        pictures: of the split.
        reader: collects them.
        root: of the data set, which may hold `made_questions.json`.
        dataset: its name.

    Raises:
        UserError: no sample is left.
        BadRecord: one cannot be used, unless such are skipped.
    """
    if any(picture.asked for picture in pictures):
        _ask_own(pictures, reader, dataset)
        return reader.finish("question")
    options = read_options(root)
    known = sorted({one.category for picture in pictures for one in picture.objects})
    look = bool({"colour", "none"} & set(options.kinds))
    if look and len(pictures) > MOST_LOOKED_AT:
        message = "%s: no questions of colour are made, for which more than %s pictures would be decoded (%s)"
        log.warning(message, root, f"{MOST_LOOKED_AT:,}", f"{len(pictures):,}")
        look = False
    for picture in pictures:
        with reader.record():
            _ask_made(picture, reader, dataset, known, options, look)
    log.info("%s: the labels hold no questions; %d were made of them", reader.file, len(reader.samples))
    return reader.finish("picture")


def read_options(root: Path) -> MakeOptions:
    """What ROOT/made_questions.json says of the questions to make; the usual ones where there is none.

    Raises:
        UserError: it holds something else.
    """
    file = root / OPTIONS_FILE
    if not is_file(file):
        return MakeOptions()
    given, known = read_json(file), {one.name for one in fields(MakeOptions)}
    if not isinstance(given, dict) or not given.keys() <= known:
        raise UserError(f"{file}: holds {shortened(given)}; it takes {', '.join(sorted(known))}")
    kinds = given.pop("kinds", list(MakeOptions().kinds))
    if not isinstance(kinds, list) or not kinds or not all(kind in KINDS for kind in kinds):
        raise UserError(f"{file}: kinds are {shortened(kinds)}; known are {', '.join(KINDS)}")
    for name, value in given.items():
        if type(value) is not int or value < 0 or (name == "most_targets" and value < 2):
            raise UserError(f"{file}: {name} is {shortened(value)}, expected a whole number")
    return MakeOptions(kinds=tuple(kinds), **given)


def _ask_own(pictures: Sequence[LabelledPicture], reader: SplitReader, dataset: str) -> None:
    answering = {id(one.objects[i]) for one in pictures for asked in one.asked for i in asked.objects}
    idle = sum(id(each) not in answering for one in pictures for each in one.objects)
    if idle:
        log.info("%s: %d labelled objects answer none of the questions in it", reader.file, idle)
    for picture in pictures:
        for asked in picture.asked:
            with reader.record():
                _raise(picture.fault or asked.fault)
                photograph = reader.photograph(picture.where, picture.path, picture.frame)
                chosen = [picture.objects[i] for i in asked.objects]
                sample = _sample(picture, photograph, reader, dataset, asked.key, asked.text, asked.answer)
                targets = tuple(_usable(one) for one in chosen)
                reader.samples.append(sample(targets, without_none(category=_category(chosen))))
        if picture.fault and not picture.asked:
            with reader.record():
                _raise(picture.fault)


def _ask_made(
    picture: LabelledPicture, reader: SplitReader, dataset: str, known: list[str], options: MakeOptions, look: bool
) -> None:
    """Questions made of a picture's labels. One bad label spoils all: the largest of the others may not be the largest.

    Raises:
        BadRecord: the picture or one of its labels cannot be used.
    """
    _raise(picture.fault)
    photograph = reader.photograph(picture.where, picture.path, picture.frame)
    targets = [_usable(one) for one in picture.objects]
    crowds: dict[str, list[Target]] = {}
    single = []
    for one, target in zip(picture.objects, targets, strict=True):
        crowds.setdefault(one.category, []).append(target) if one.crowd else single.append((one, target))
    things = look_at([(one.category, target) for one, target in single], picture, photograph if look else None)
    made = make_questions(picture.name, picture.frame, things, known=known, uncountable=tuple(crowds), options=options)
    for question in made:
        sample = _sample(picture, photograph, reader, dataset, f"{picture.name}:{question.slug}", question.text, None)
        chosen = [single[i] for i in question.things]
        answer = tuple(target for _, target in chosen)
        if question.together:
            answer = (as_one(answer, picture.frame),)
        reader.samples.append(sample(answer, _made_groups(question, [one for one, _ in chosen])))


def _made_groups(question: MadeQuestion, chosen: list[LabelledObject]) -> dict[str, Any]:
    return without_none(question=question.kind, category=_category(chosen))


def _category(chosen: Iterable[LabelledObject]) -> str | None:
    """That of all of them, None where they differ or there are none."""
    found = {one.category for one in chosen}
    return found.pop() if len(found) == 1 else None


def _sample(
    picture: LabelledPicture,
    photograph: Photograph,
    reader: SplitReader,
    dataset: str,
    key: str,
    text: str,
    answer: str | None,
) -> Any:
    """A maker of the sample from its targets and groups."""

    def make(targets: tuple[Target, ...], groups: dict[str, Any]) -> Sample:
        return Sample(
            image_path=photograph.path,
            question=text,
            answer=answer,
            targets=targets,
            height=picture.frame[0],
            width=picture.frame[1],
            dataset=dataset,
            record_id=picture.name,
            index=len(reader.samples),
            groups=groups,
            source=picture.where,
            key=key,
            picture_size=photograph.picture_size,
            upright=photograph.upright,
        )

    return make


def _raise(fault: BadRecord | None) -> None:
    if fault is not None:
        raise fault


def _usable(one: LabelledObject) -> Target:
    if isinstance(one.target, BadRecord):
        raise one.target
    return one.target


def as_one(targets: Sequence[Target], frame: tuple[int, int]) -> Target:
    """The union of targets: their polygons, or an RLE where one of them is an RLE."""
    if not any(isinstance(target, dict) for target in targets):
        return tuple(polygon for target in targets for polygon in target)
    return united([target_rle(target, frame) for target in targets])


def target_rle(target: Target, frame: tuple[int, int]) -> dict[str, Any]:
    """A target as a COCO RLE of the labels' frame."""
    return target if isinstance(target, dict) else polygons_rle(target, frame, frame)


def look_at(
    labelled: Sequence[tuple[str, Target]], picture: LabelledPicture, photograph: Photograph | None
) -> list[Thing]:
    """Sizes, places and, where the photograph is given, colours of (category, target)s.

    Places and colours are taken at 1,024 pixels of the longer side; areas at the frame's own size.

    Raises:
        BadRecord: the photograph cannot be decoded.
    """
    scale = min(1.0, LOOK_SIDE / max(picture.frame))
    small = tuple(max(1, round(side * scale)) for side in picture.frame)
    map_of_colours = None
    if photograph is not None and labelled:
        pixels = cv2.resize(_pixels(picture.where, photograph), small[::-1], interpolation=cv2.INTER_AREA)
        map_of_colours = colour_map(pixels)
    high, wide = picture.frame
    things = []
    for category, target in labelled:
        rle = target_rle(target, picture.frame)
        left, top, width, height = (float(v) for v in coco.toBbox(rle))
        box = (left / wide, top / high, (left + width) / wide, (top + height) / high)
        x, y = int(box[0] * small[1]), int(box[1] * small[0])
        part = slice(y, math.ceil(box[3] * small[0])), slice(x, math.ceil(box[2] * small[1]))
        ys, xs = np.nonzero(_small_mask(target, rle, picture.frame, small)[part])
        centre, colours = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), None
        if len(xs):  # else too small to be seen at this size
            centre = (float(x + xs.mean() + 0.5) / small[1], float(y + ys.mean() + 0.5) / small[0])
            colours = None if map_of_colours is None else mask_colours(map_of_colours[part][ys, xs])
        things.append(Thing(category, float(coco.area(rle)), centre, box, colours))
    return things


def _small_mask(target: Target, rle: dict[str, Any], frame: tuple[int, int], small: tuple[int, int]) -> np.ndarray:
    if small == frame or not isinstance(target, dict):
        return coco.decode(rle if small == frame else polygons_rle(target, frame, small))
    return cv2.resize(coco.decode(rle), small[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _pixels(where: str, photograph: Photograph) -> np.ndarray:
    try:
        with opened_picture(photograph.path) as opened:
            return decoded(opened, photograph.upright)
    except UserError as error:
        raise BadRecord(f"{where}: {error}") from error
