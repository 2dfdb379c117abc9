"""ReasonSeg, the benchmark of LISA, in its published layout.

    ROOT/ReasonSeg/{train,val,test}/NAME.jpg, NAME.json     (ROOT may be ReasonSeg itself)
    ROOT/ReasonSeg/explanatory/train.json                   (answers in words, of a part of train; may be left out)

A label file is `{text: [instruction, …], is_sentence, shapes: [{label, points: [[x, y], …]}, …]}`, in UTF-8 or, as a
few of the published ones, in cp1252. All shapes of a picture are one target, drawn as LISA does
(dvlab-research/LISA@3cb2d43 utils/data_processing.py): sorted by their drawn area, the largest first, each filled and
its closed outline drawn 1 px wide, points cut off to whole pixels; a later shape paints over an earlier one. Shapes
labelled "flag" are left out, those with "ignore" in their label are the region that counts on neither side.

`reasonseg` asks the first instruction of each picture of val and test, as published numbers do, and every instruction
of train; `reasonseg-all-texts` asks every one of every split.

Sentences are asked as they stand, phrases as "What is … in this image?" (LISA utils/dataset.py). LISA's prompts end
with "Please output segmentation mask.", which tells its model to answer with a mask and not in words alone; this model
answers every question with masks, none of its other data sets asks for them, and so it is left out here.
"""

from __future__ import annotations

import logging
import unicodedata
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.masks import encode_mask
from utils.datasets.base import BadRecord, DatasetSpec, Sample, ScoringRules
from utils.datasets.checks import MAX_COORDINATE, checked_question_text, shortened
from utils.datasets.layout import check_split_name, folder_or_inner, missing_part
from utils.datasets.reading import Photograph, Reading, SplitReader
from utils.runtime.errors import UserError
from utils.runtime.json_files import parse_json, read_json
from utils.runtime.paths import entries, is_file, is_folder
from utils.runtime.text import PICTURE_ENDINGS

log = logging.getLogger(__name__)

NAME, ALL_TEXTS_NAME = "reasonseg", "reasonseg-all-texts"
TRAIN = "train"
SPLITS = (TRAIN, "val", "test")
PHRASE_QUESTION = "What is {text} in this image?"
LONG, SHORT = {"query": "long"}, {"query": "short"}  # one object each for all samples
TARGET, IGNORED = 1, 255  # as they are painted
LAYOUT = "ReasonSeg/{split}/NAME.jpg\nReasonSeg/{split}/NAME.json\nReasonSeg/explanatory/train.json (answers in words)"
SOURCE = "https://github.com/dvlab-research/LISA#dataset (reason_seg, a folder on Google Drive)"
Explanations = dict[tuple[str, str], str]  # picture's name without its ending and instruction -> answer


def load_reasonseg(
    root: Path, split: str, reading: Reading, skipped: list[str] | None = None, all_texts: bool = False
) -> list[Sample]:
    """All samples of a split, drawn and checked.

    LISA reads pictures with OpenCV, which applies orientation tags; so does this unless `reading` says "stored".

    Args:
        root: the folder that holds `ReasonSeg`, or that folder.
        split: "train", "val" or "test".
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.
        all_texts: ask every instruction of val and test too, not the first alone.

    Raises:
        UserError: there is no such split, its folder is missing, or holds no pair of picture and labels.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    check_split_name(ALL_TEXTS_NAME if all_texts else NAME, split, SPLITS)
    top = folder_or_inner(root, "ReasonSeg")
    folder = top / split
    if not is_folder(folder):
        raise missing_part(root, folder, LAYOUT, SOURCE)
    if reading.orientation == "check":
        reading = replace(reading, orientation="apply")
    reader = SplitReader(folder, reading, skipped)
    answers = _explanations(reader, top / "explanatory" / "train.json") if split == TRAIN else {}
    for stem in _stems(folder):
        with reader.record():
            picture = _read_picture(reader, folder, stem, all_texts or split == TRAIN)
            reader.samples += _samples(picture, ALL_TEXTS_NAME if all_texts else NAME, answers, len(reader.samples))
    answered = sum(sample.answer is not None for sample in reader.samples)
    if answered < len(answers):
        log.warning(
            "%s: %d of its %d answers in words belong to no question", folder, len(answers) - answered, len(answers)
        )
    return reader.finish()


@dataclass(frozen=True)
class _Picture:
    """A picture with its labels: texts are those to ask, `numbered` whether several stand in the file."""

    where: str
    stem: str
    photograph: Photograph
    frame: tuple[int, int]
    texts: list[str]
    numbered: bool
    is_sentence: bool
    target: dict[str, Any]
    ignore: dict[str, Any] | None


def _read_picture(reader: SplitReader, folder: Path, stem: str, all_texts: bool) -> _Picture:
    """A picture's labels, checked and drawn.

    Raises:
        BadRecord: either file is missing or cannot be used.
    """
    where = f"{folder}: {stem}.json"
    labels = read_labels(where, folder / f"{stem}.json")
    texts, is_sentence = labels["text"], labels["is_sentence"]
    if not isinstance(texts, list) or not texts:
        raise BadRecord(f"{where}: text is {shortened(texts)}, expected a list of instructions")
    if not isinstance(is_sentence, bool):
        raise BadRecord(f"{where}: is_sentence is {shortened(is_sentence)}, expected true or false")
    asked = texts if all_texts else texts[:1]
    photograph = reader.photograph(where, folder / f"{stem}.jpg", None)
    frame = reader.size(photograph)
    drawn = draw_shapes(where, labels["shapes"], frame)
    if not (drawn == TARGET).any():
        raise BadRecord(f"{where}: its shapes cover no pixel of the picture")
    ignored = drawn == IGNORED
    return _Picture(
        where,
        stem,
        photograph,
        frame,
        [checked_question_text(f"{where}: text {i}", text) for i, text in enumerate(asked)],
        all_texts and len(texts) > 1,
        is_sentence,
        encode_mask(drawn == TARGET),
        encode_mask(ignored) if ignored.any() else None,
    )


def _samples(picture: _Picture, dataset: str, answers: Explanations, first: int) -> list[Sample]:
    """One sample a text; all share the target."""
    return [
        Sample(
            image_path=picture.photograph.path,
            question=text if picture.is_sentence else PHRASE_QUESTION.format(text=text),
            answer=answers.get((picture.stem, text)),
            targets=(picture.target,),
            height=picture.frame[0],
            width=picture.frame[1],
            dataset=dataset,
            record_id=picture.stem,
            index=first + i,
            groups=LONG if picture.is_sentence else SHORT,
            ignore=picture.ignore,
            source=picture.where,
            key=f"{picture.stem}#{i}" if picture.numbered else picture.stem,
            upright=picture.photograph.upright,
        )
        for i, text in enumerate(picture.texts)
    ]


def _stems(folder: Path) -> list[str]:
    """Names of pictures and label files, without endings: one that lacks the other is a bad record, not left out."""
    files = entries(folder)
    labelled = {path.stem for path in files if path.suffix == ".json"}
    known = {unicodedata.normalize("NFC", stem) for stem in labelled}
    pictures = {path.stem for path in files if path.suffix.lower() in PICTURE_ENDINGS}
    return sorted(labelled | {stem for stem in pictures if unicodedata.normalize("NFC", stem) not in known})


def read_labels(where: str, file: Path) -> dict[str, Any]:
    """What a label file holds.

    Raises:
        BadRecord: it is missing, is no JSON in UTF-8 or cp1252, or lacks a field.
    """
    try:
        labels = read_json(file, strict=False)
    except UserError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise BadRecord(f"{where}: {error}") from error
        labels = _read_cp1252(where, file)
    for field in ("text", "is_sentence", "shapes"):
        if not isinstance(labels, dict) or field not in labels:
            raise BadRecord(f"{where} lacks the field {field!r}")
    return labels


def _read_cp1252(where: str, file: Path) -> Any:
    try:
        return parse_json(file.read_bytes().decode("cp1252"), str(file), strict=False)
    except (UnicodeDecodeError, UserError) as error:
        raise BadRecord(f"{where}: neither JSON in UTF-8 nor in cp1252 ({error}); save it as UTF-8") from error


def draw_shapes(where: str, shapes: Any, frame: tuple[int, int]) -> np.ndarray:
    """The ground truth as published: uint8[H, W] of 0, TARGET and IGNORED.

    Args:
        where: file of the record.
        shapes: of its labels.
        frame: (height, width) of the picture.

    Raises:
        BadRecord: a shape is no polygon.
    """
    if not isinstance(shapes, list):
        raise BadRecord(f"{where}: shapes is {shortened(shapes)}, expected a list")
    known = [(label, points) for label, points in (checked_shape(where, i, one) for i, one in enumerate(shapes))
             if label != "flag"]  # fmt: skip
    areas = [np.count_nonzero(_painted(np.zeros(frame, np.uint8), points, TARGET)) for _, points in known]
    drawn = np.zeros(frame, np.uint8)
    for i in np.argsort(areas)[::-1]:  # as published, also where areas are equal
        label, points = known[i]
        _painted(drawn, points, IGNORED if "ignore" in label else TARGET)
    return drawn


def checked_shape(where: str, number: int, shape: Any) -> tuple[str, np.ndarray]:
    """A shape's label in lower case, and its points as int32[N, 2].

    Raises:
        BadRecord: it has no label or no points, or one that is no pixel's.
    """
    where = f"{where}, shape {number}"
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise BadRecord(f"{where} has no label")
    points = shape.get("points")
    pairs = isinstance(points, list) and points and all(isinstance(p, list) and len(p) == 2 for p in points)
    if not pairs or not all(type(v) in (int, float) for p in points for v in p):
        raise BadRecord(f"{where}: points are {shortened(points)}, expected a list of [x, y]")
    if not all(abs(v) <= MAX_COORDINATE for p in points for v in p):  # nor is NaN
        raise BadRecord(f"{where} has a coordinate that is no pixel's")
    return shape["label"].lower(), np.array(points).astype(np.int32)  # towards zero, as published


def _painted(drawn: np.ndarray, points: np.ndarray, value: int) -> np.ndarray:
    cv2.polylines(drawn, [points], True, value, 1)  # as published; OpenCV 4 fills the outline's pixels anyway
    return cv2.fillPoly(drawn, [points], value)


def _explanations(reader: SplitReader, file: Path) -> Explanations:
    """The answers in words, by picture and instruction; LISA gives that of a picture to all its instructions.

    Raises:
        UserError: the file is no JSON list.
        BadRecord: an item cannot be used, unless such are skipped.
    """
    if not is_file(file):
        log.warning("%s is missing; no question has an answer in words", file)
        return {}
    items = read_json(file, strict=False)
    if not isinstance(items, list):
        raise UserError(f"{file}: holds a {type(items).__name__}, expected a list of image, query and outputs")
    found: Explanations = {}
    for i, item in enumerate(items):
        with reader.record():
            fields = [item.get(name) if isinstance(item, dict) else None for name in ("image", "query", "outputs")]
            if not all(isinstance(field, str) and field.strip() for field in fields):
                raise BadRecord(f"{file}: item {i} is {shortened(item)}, expected the texts image, query and outputs")
            image, query, outputs = fields
            found[Path(image).stem, query.strip()] = outputs.strip()
    return found


SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=load_reasonseg,
    rules={
        "clean": ScoringRules(unit="question"),
        "official": ScoringRules(
            unit="question",
            note="LISA adds 1e-5 to every union and to the number of targets, and 1e-10 to the sum of unions, so that "
            "its numbers are lower by less than is shown; it forces the answer, so no text is generated",
        ),
    },
    group_titles={"query": "query"},
)
ALL_TEXTS_SPEC = replace(SPEC, name=ALL_TEXTS_NAME, loader=partial(load_reasonseg, all_texts=True))
