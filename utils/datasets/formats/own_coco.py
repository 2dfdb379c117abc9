"""One's own pictures with labels in COCO's format, as CVAT, Roboflow, Label Studio and others export them.

    ROOT/{split}.json or ROOT/annotations/{split}.json        also instances_{split}.json
    ROOT/{split}/_annotations.coco.json                       Roboflow's, the pictures beside it
    ROOT/instances.json, or another single file               splits are then drawn (utils.datasets.drawn_splits)
    ROOT/images/{split}/*, ROOT/images/*, ROOT/{split}/*, ROOT/*    pictures, where file_name is looked for

Questions stand in a field `question`, `caption` or `text` of an annotation or of its `attributes`, a text or a list of
texts; annotations of one picture with the same question are its targets. Or in a picture's `questions` or `captions`:
a text is answered by all its annotations, `{"question", "annotation_ids", "answer"}` by those, and one with
`"no_target": true` by none. Where a file has no question at all, they are made of its categories
(utils.datasets.made_questions; ROOT/made_questions.json says which).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.datasets.base import CLEAN, GENERAL_METRICS, BadRecord, DatasetSpec, Sample, ScoringRules
from utils.datasets.checks import checked_frame, checked_question_text, shortened
from utils.datasets.drawn_splits import ALL, pictures_of_split
from utils.datasets.formats.own_coco_files import LabelFile, find_picture, label_files, picture_folders
from utils.datasets.labelled import GROUP_TITLES, AskedQuestion, LabelledObject, LabelledPicture, samples_of
from utils.datasets.reading import Reading, SplitReader
from utils.datasets.segmentations import checked_segmentation
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json

NAME = "coco"
LAYOUT = """{split}.json, annotations/{split}.json, annotations/instances_{split}.json,
{split}/_annotations.coco.json with the pictures beside, or a single instances.json, from which splits are drawn
images/*"""
SOURCE = "your own labels: a COCO export of CVAT, Roboflow, Label Studio, … (utils/datasets/OWN_MASKS.md)"
TEXT_FIELDS = ("question", "caption", "text")
PICTURE_FIELDS = ("questions", "captions")


def load_own_coco(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """All samples of a split.

    Args:
        root: the folder of labels and pictures.
        split: that of a file, `all`, or a drawn one where there is a single file.
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split, or its file is no COCO file.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    files = label_files(root, split, LAYOUT, SOURCE)
    samples: list[Sample] = []
    for file in files:
        prefix = f"{file.split}/" if len(files) > 1 else ""
        samples += _load_file(root, file, split, reading, skipped, prefix)
    return [replace(sample, index=i) for i, sample in enumerate(samples)] if len(files) > 1 else samples


def _load_file(
    root: Path, file: LabelFile, split: str, reading: Reading, skipped: list[str] | None, prefix: str
) -> list[Sample]:
    labels = _CocoFile(file.path, reading.polygons, prefix)
    images = labels.images
    if file.split is None:
        names = [str(image.get("file_name")) for image in images.values()]
        chosen = pictures_of_split(root, names, split)
        images = {key: image for key, image in images.items() if str(image.get("file_name")) in chosen}
    folders = picture_folders(root, file.path)
    pictures = [labels.picture(key, image, folders) for key, image in images.items()]
    return samples_of(pictures, SplitReader(file.path, reading, skipped), root, NAME)


class _CocoFile:
    """A parsed COCO file: pictures and categories by id, annotations by picture.

    Raises:
        UserError: it is no COCO file, or two pictures have one id.
    """

    def __init__(self, file: Path, polygons: str, prefix: str) -> None:
        self.file, self.polygons, self.prefix = file, polygons, prefix
        table = read_json(file, strict=False)
        for part in ("images", "annotations", "categories"):
            if not isinstance(table, dict) or not isinstance(table.get(part), list):
                raise UserError(
                    f"{file}: no COCO file of instances, for it has no list {part!r}; move it elsewhere, or export "
                    "the labels as COCO with masks"
                )
        self.images = self._by_id("images", table["images"])
        self.categories = {
            key: str(one.get("name", "")).strip().replace("_", " ").lower()
            for key, one in self._by_id("categories", table["categories"]).items()
        }
        self.of_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
        for position, one in enumerate(table["annotations"]):
            image = one.get("image_id") if isinstance(one, dict) else None
            if not isinstance(image, (int, str)) or image not in self.images:
                where = f"{file}: annotation {position}"
                raise UserError(f"{where}: image_id is {shortened(image)}, which no picture of the file has")
            self.of_image.setdefault(image, []).append((position, one))

    def _by_id(self, part: str, rows: list[Any]) -> dict[Any, dict[str, Any]]:
        found: dict[Any, dict[str, Any]] = {}
        for position, row in enumerate(rows):
            key = row.get("id") if isinstance(row, dict) else None
            if not isinstance(key, (int, str)):
                raise UserError(f"{self.file}: {part}[{position}] has no id that is a number or a text")
            if found.setdefault(key, row) is not row:
                raise UserError(f"{self.file}: two of its {part} have the id {key!r}")
        return found

    def picture(self, key: Any, image: dict[str, Any], folders: list[Path]) -> LabelledPicture:
        """A picture with its objects; what is wrong with it or one of them is kept for whoever asks for it."""
        where = f"{self.file}: image {shortened(key)} ({shortened(image.get('file_name'))})"
        try:
            path = find_picture(where, image.get("file_name"), folders)
            frame = checked_frame(where, image.get("height"), image.get("width"))
        except BadRecord as error:
            return LabelledPicture(where, f"{self.prefix}{key}", folders[0], (1, 1), fault=error)
        rows = self.of_image.get(key, [])
        objects = [self._object(where, position, row, frame) for position, row in rows]
        picture = LabelledPicture(where, f"{self.prefix}{key}", path, frame, objects)
        try:
            picture.asked = [*self._asked_of_objects(picture, rows), *self._asked_of_picture(picture, image, rows)]
        except BadRecord as error:
            picture.fault = error
        return picture

    def _object(self, where: str, position: int, row: dict[str, Any], frame: tuple[int, int]) -> LabelledObject:
        where = f"{where}, annotation {position} (id {shortened(row.get('id'))})"
        category = row.get("category_id")
        name = self.categories.get(category, "") if isinstance(category, (int, str)) else ""
        try:
            if not name:
                raise BadRecord(f"{where}: category_id is {shortened(category)}, which has no name in the file")
            target: Any = checked_segmentation(where, row.get("segmentation"), frame, self.polygons)
        except BadRecord as error:
            target = error
        return LabelledObject(name, target, bool(row.get("iscrowd")))

    def _asked_of_objects(self, picture: LabelledPicture, rows: list[tuple[int, dict]]) -> list[AskedQuestion]:
        """Texts that annotations carry; those with the same one are its several targets."""
        answering: dict[str, list[int]] = {}
        keys: dict[str, str] = {}
        answers: dict[str, str] = {}
        for i, (position, row) in enumerate(rows):
            where = f"{picture.where}, annotation {position}"
            for n, text in enumerate(texts_of(where, row)):
                answering.setdefault(text, []).append(i)
                keys.setdefault(text, f"{picture.name}:{row.get('id', position)}" + (f"#{n}" if n else ""))
                if isinstance(row.get("answer"), str):
                    answers.setdefault(text, row["answer"])
        return [AskedQuestion(keys[text], text, tuple(dict.fromkeys(of)), answers.get(text))
                for text, of in answering.items()]  # fmt: skip

    def _asked_of_picture(
        self, picture: LabelledPicture, image: dict[str, Any], rows: list[tuple[int, dict]]
    ) -> list[AskedQuestion]:
        """Texts that the picture carries."""
        by_id = {row.get("id"): i for i, (_, row) in enumerate(rows) if isinstance(row.get("id"), (int, str))}
        asked = []
        for name in PICTURE_FIELDS:
            listed = image.get(name) or []
            if not isinstance(listed, list):
                raise BadRecord(f"{picture.where}: {name} is {shortened(listed)}, expected a list")
            for n, one in enumerate(listed):
                asked.append(_asked(f"{picture.where}, {name}[{n}]", f"{picture.name}:{name}{n}", one, by_id))
        return asked


def texts_of(where: str, row: dict[str, Any]) -> list[str]:
    """The questions that an annotation carries, in its fields or in its `attributes`.

    Raises:
        BadRecord: one is no text.
    """
    attributes = row.get("attributes")
    texts: list[str] = []
    for holder in (row, attributes if isinstance(attributes, dict) else {}):
        for name in TEXT_FIELDS:
            value = holder.get(name)
            for one in value if isinstance(value, list) else [value]:
                if one not in (None, ""):
                    texts.append(checked_question_text(f"{where}: {name}", one))
    return list(dict.fromkeys(texts))


def _asked(where: str, key: str, value: Any, by_id: dict[Any, int]) -> AskedQuestion:
    """A question from a picture's list: a text about all its objects, or one that names them."""
    if not isinstance(value, dict):
        text = checked_question_text(where, value)
        missing = None if by_id else BadRecord(f"{where}: the picture has no annotation that could answer it")
        return AskedQuestion(key, text, tuple(by_id.values()), fault=missing)
    text = checked_question_text(f"{where}: question", value.get("question"))
    ids, none = value.get("annotation_ids", []), value.get("no_target", False)
    listed = ids if isinstance(ids, list) else [ids]
    unknown = [one for one in listed if type(one) not in (int, str) or one not in by_id]
    fault = None
    if unknown:
        fault = BadRecord(f"{where}: annotation_ids has {shortened(unknown[0])}, which no annotation of the picture is")
    elif len(set(listed)) != len(listed):
        fault = BadRecord(f"{where}: annotation_ids is {shortened(ids)}, which names an annotation twice")
    elif none is not (not listed):
        told = f"annotation_ids is {shortened(ids)} and no_target {shortened(none)}"
        fault = BadRecord(f"{where}: {told}; a question has either annotations or no_target as true")
    answer = value.get("answer")
    if answer is not None and not isinstance(answer, str):
        fault = BadRecord(f"{where}: answer is {shortened(answer)}, expected a text or null")
    return AskedQuestion(key, text, () if fault else tuple(by_id[one] for one in listed), answer, fault)


SPEC = DatasetSpec(
    name=NAME,
    splits=("train", "val", "test", ALL),
    layout=LAYOUT,
    source=SOURCE,
    loader=load_own_coco,
    group_titles=GROUP_TITLES,
    rules={CLEAN: ScoringRules(GENERAL_METRICS)},
    no_target=True,
)
