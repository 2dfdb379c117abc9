"""MUSE, reasoning segmentation with several targets (PixelLM), in its published layout.

    ROOT/muse_{train,val,test_less,test_many}.json
    PICTURES/{train2014,train2017,val2017}/*.jpg     (of COCO)

PICTURES is ROOT itself, `coco` beside ROOT, or PixelLM's `refer_seg/images/mscoco/images` beside ROOT: for each of
the three folders the first that has it.

A record is `{height, width, coco_url or file_name, questions: [text, …], answers: [[object, …] for each question],
text_answers?: [text or null, …]}`; an object is `{segmentation, …}` of polygons or run lengths. Every question is a
sample, whose targets are the objects of its answer in their order. `file_name` names a picture of train2014, the last
two parts of `coco_url` the folder and the picture (MaverickRen/PixelLM@ebf0792 utils/multi_reason_seg_dataset.py).
Texts of answers have `{seg}` where PixelLM writes its tokens; here these follow the words, so that the marks are
dropped. Most of the published records have no such texts.
"""

from __future__ import annotations

import re
from operator import mul
from pathlib import Path, PurePosixPath
from typing import Any

from pycocotools import mask as coco

from utils.datasets.base import BadRecord, DatasetSpec, Sample, ScoringRules, Target
from utils.datasets.checks import checked_frame, checked_polygon, checked_question_text, shortened
from utils.datasets.drseg import question_keys, read_records
from utils.datasets.layout import check_split_name, missing_part
from utils.datasets.reading import Reading, SplitReader
from utils.datasets.run_lengths import checked_rle
from utils.runtime.paths import is_file, is_folder

NAME = "muse"
SPLITS = ("train", "val", "test_less", "test_many")
NUMBERS = {int, float}
SEG_MARK = re.compile(r"\s*\{seg\}")
OF_FILE_NAMES = "train2014"
PICTURE_FOLDERS = (OF_FILE_NAMES, "train2017", "val2017")
PICTURE_PLACES = (".", "../coco", "../refer_seg/images/mscoco/images")
LAYOUT = (
    "muse_{split}.json\n{train2014,train2017,val2017}/*.jpg (COCO's pictures; here, or in one of\n"
    "    ../coco, ../refer_seg/images/mscoco/images)"
)
SOURCE = "https://github.com/MaverickRen/PixelLM (MUSE); the pictures from https://cocodataset.org"


def load_muse(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """All samples of a split, one a question, checked.

    Targets are kept as run lengths, which take a fifth of the memory of their polygons; those whose polygons overlap
    stay polygons, since the published scoring takes what two of them cover for background.

    Args:
        root: the folder that holds the label files.
        split: "train", "val", "test_less" or "test_many".
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split, its label file or a folder of pictures is missing, or the file holds no list
            in JSON.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    check_split_name(NAME, split, SPLITS)
    file = root / f"muse_{split}.json"
    if not is_file(file):
        raise missing_part(root, file, LAYOUT, SOURCE)
    records = read_records(file)
    reader = _Reader(root, SplitReader(file, reading, skipped))
    pictures = [picture_of(record) for record in records]
    named = [
        {"id": picture[1].removesuffix(".jpg") if picture else position, "questions": questions_of(record)}
        for position, (picture, record) in enumerate(zip(pictures, records, strict=True))
    ]
    for position, (record, picture, keys) in enumerate(zip(records, pictures, question_keys(named), strict=True)):
        with reader.split.record():
            reader.add(f"{file}: record {position}", record, picture, keys)
        records[position] = None  # frees it: the published files are large
    return reader.split.finish()


def picture_of(record: Any) -> tuple[str, str] | None:
    """Folder and name of a record's picture; None where it names none."""
    if not isinstance(record, dict):
        return None
    if "file_name" in record:
        parts: tuple[Any, ...] = (OF_FILE_NAMES, record["file_name"])
    else:
        parts = PurePosixPath(str(record.get("coco_url"))).parts[-2:]
    folder, name = parts if len(parts) == 2 else (None, None)
    if folder not in PICTURE_FOLDERS or not isinstance(name, str) or PurePosixPath(name).name != name:
        return None
    return folder, name


def questions_of(record: Any) -> Any:
    """Of a record that may be anything."""
    return record.get("questions") if isinstance(record, dict) else None


class _Reader:
    """Turns records into samples."""

    def __init__(self, root: Path, split: SplitReader) -> None:
        self.root, self.split = root, split
        self.folders: dict[str, Path] = {}

    def add(self, where: str, record: Any, picture: tuple[str, str] | None, keys: list[str]) -> None:
        """One sample a question.

        Raises:
            BadRecord: something in the record cannot be used.
        """
        if picture is None:
            shown = record if not isinstance(record, dict) else record.get("file_name", record.get("coco_url"))
            raise BadRecord(f"{where} names no picture of COCO by file_name or coco_url: {shortened(shown)}")
        where = f"{where} ({picture[1]})"
        frame = checked_frame(where, record.get("height"), record.get("width"))
        rows = checked_rows(where, record)
        photograph = self.split.photograph(where, self._folder(picture[0]) / picture[1], frame)
        known: list[tuple[Any, Target]] = []  # questions of a picture ask for the same objects again and again
        first = len(self.split.samples)
        self.split.samples += [
            Sample(
                image_path=photograph.path,
                question=question,
                answer=text,
                targets=tuple(
                    checked_target(f"{where}, question {i}, target {t}", one, frame, known)
                    for t, one in enumerate(objects)
                ),
                height=frame[0],
                width=frame[1],
                dataset=NAME,
                record_id=keys[i].partition("#")[0],
                index=first + i,
                source=where,
                key=keys[i],
                picture_size=photograph.picture_size,
                upright=photograph.upright,
            )
            for i, (question, objects, text) in enumerate(rows)
        ]

    def _folder(self, name: str) -> Path:
        """Where pictures of one of COCO's folders lie.

        Raises:
            UserError: nowhere.
        """
        if name not in self.folders:
            places = [self.root / place / name for place in PICTURE_PLACES]
            found = next((place for place in places if is_folder(place)), None)
            if found is None:
                raise missing_part(self.root, self.root / name, LAYOUT, SOURCE)
            self.folders[name] = found
        return self.folders[name]


def checked_rows(where: str, record: dict[str, Any]) -> list[tuple[str, list[Any], str | None]]:
    """Question, objects and answer in words (None where there is none) of each question of a record.

    Raises:
        BadRecord: no question, an empty one, one without targets, or lists whose lengths differ.
    """
    questions, answers = record.get("questions"), record.get("answers")
    for field, value in (("questions", questions), ("answers", answers)):
        if not isinstance(value, list):
            raise BadRecord(f"{where}: {field} is {shortened(value)}, expected a list")
    texts = record.get("text_answers") or [None] * len(questions)
    if not questions:
        raise BadRecord(f"{where} has no question")
    if not isinstance(texts, list) or not len(questions) == len(answers) == len(texts):
        raise BadRecord(f"{where}: questions, answers and text_answers are of different length")
    rows = []
    for i, (question, objects, text) in enumerate(zip(questions, answers, texts, strict=True)):
        if not isinstance(objects, list) or not objects:
            raise BadRecord(f"{where}: answer {i} is {shortened(objects)}, expected a list of objects")
        if text is not None and not isinstance(text, str):
            raise BadRecord(f"{where}: text answer {i} is {shortened(text)}, expected a text or null")
        words = SEG_MARK.sub("", text).strip() if text else None
        rows.append((checked_question_text(f"{where}: question {i}", question), objects, words or None))
    return rows


def checked_target(where: str, value: Any, frame: tuple[int, int], known: list[tuple[Any, Target]]) -> Target:
    """The mask of an object.

    Args:
        where: file, record and target.
        value: the object.
        frame: (height, width) that it was drawn on.
        known: segmentations of this record and their masks; one that was not among them is added.

    Raises:
        BadRecord: it is neither polygons nor run lengths, or covers no pixel.
    """
    segmentation = value.get("segmentation") if isinstance(value, dict) else None
    met = next((target for written, target in known if written == segmentation), None)
    if met is not None:
        return met
    if isinstance(segmentation, dict):
        target: Target = checked_rle(where, segmentation, frame)
        empty = not coco.area(target)
    else:
        target, empty = polygons_target(where, segmentation, frame)
    if empty:
        raise BadRecord(f"{where} covers no pixel of the picture")
    known.append((segmentation, target))
    return target


def polygons_target(where: str, value: Any, frame: tuple[int, int]) -> tuple[Target, bool]:
    """Polygons as run lengths, or as they are where they overlap; and whether they cover no pixel.

    Raises:
        BadRecord: they are none.
    """
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{where}: segmentation is {shortened(value)}, expected polygons or run lengths")
    lists = value if isinstance(value[0], list) else [value]
    for i, one in enumerate(lists):
        if not is_plain_polygon(one, frame):
            checked_polygon(f"{where}, polygon {i}", one, frame)
    rles = coco.frPyObjects(lists, *frame)
    union = coco.merge(rles) if len(rles) > 1 else rles[0]
    area = int(coco.area(union))
    if len(rles) > 1 and coco.area(rles).sum() != area:
        return tuple(tuple(map(float, one)) for one in lists), area == 0
    return {"size": list(frame), "counts": union["counts"].decode("ascii")}, area == 0


def is_plain_polygon(values: Any, frame: tuple[int, int]) -> bool:
    """Whether a polygon is as most are, so that `checked_polygon` would take it: numbers, in the frame, with area.

    The published files hold a million, on which this takes less than half the time.
    """
    if not isinstance(values, list) or len(values) < 6 or len(values) % 2 or not NUMBERS.issuperset(map(type, values)):
        return False
    xs, ys = values[0::2], values[1::2]
    inside = 0 <= min(xs) and max(xs) <= frame[1] and 0 <= min(ys) and max(ys) <= frame[0]
    if not inside:
        return False
    closing = xs[-1] * ys[0] - xs[0] * ys[-1]
    return (
        abs(sum(map(mul, xs, ys[1:])) - sum(map(mul, xs[1:], ys)) + closing) > 1
    )  # twice its area; not where one is NaN


SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=load_muse,
    rules={
        "clean": ScoringRules(matching="hungarian"),
        "official": ScoringRules(
            metrics=("giou_by_picture", "ciou"),
            matching="hungarian",
            covered_once=True,
            note="PixelLM matches by the logits of 12,544 random points, which masks do not hold and chance decides: "
            "here by exact IoU. It compares unmatched predictions as raw logits, of which only those from 0 to 1 "
            "count, so that its numbers charge less for false masks. The score of the texts by GPT in the paper's "
            "table is not part of either",
        ),
    },
)
