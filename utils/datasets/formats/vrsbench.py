"""VRSBench, its referring part: sentences about objects of aerial photographs, each answered by a box.

    VRSBench_EVAL_referring.json, Images_val/P0003_0002.png, …
    Annotations_train/P0003_0001.json, Images_train/P0003_0001.png, …

The evaluation file is a list of `{image_id, question, ground_truth, question_id, unique, obj_corner, size_group, …}`
with `ground_truth` as `{<x1><y1><x2><y2>}`, whole numbers from 0 to 100, and `obj_corner` as the corners of a turned
box, x1 y1 x2 y2 x3 y3 x4 y4 from 0 to 1, from which that was cut down, not rounded. The truth is `ground_truth`: each
side of the target is the whole pixel that rounds to the published number of hundredths and is nearest to that of the
upright box around the corners, so that the official rules compare with the published numbers and the others keep half
of what was cut off. (In pictures of under 100 pixels some numbers have no such pixel; theirs are 512.) An annotation
holds `{image, objects: [{referring_sentence, obj_corner or obj_coord, is_unique, obj_size, …}], …}`.
(lx709/VRSBench@d38cee1, prepare_eval_all.ipynb.)

There are no masks: a target is its box, and masks are compared by the boxes around them.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

from model.masks import Polygon
from utils.datasets.base import CLEAN, OFFICIAL, BadRecord, DatasetSpec, Sample, ScoringRules
from utils.datasets.checks import checked_picture_name, checked_question_text, shortened, without_none
from utils.datasets.layout import check_split_name, missing_part
from utils.datasets.reading import Photograph, Reading, SplitReader
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import entries, is_file

log = logging.getLogger(__name__)

NAME = "vrsbench"
SPLITS = ("train", "val")
EVAL_FILE = "VRSBench_EVAL_referring.json"
LAYOUT = f"{EVAL_FILE}\nImages_val/P0003_0002.png\nAnnotations_train/P0003_0001.json\nImages_train/P0003_0001.png"
SOURCE = "https://huggingface.co/datasets/xiang709/VRSBench"
GROUND_TRUTH = re.compile(r"\{<(\d+)><(\d+)><(\d+)><(\d+)>\}")
GRID = 100  # of ground_truth
Box = tuple[float, float, float, float]  # x1 y1 x2 y2 as shares of the picture


def load_vrsbench(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """A sample for each sentence.

    Args:
        root: the folder that holds the evaluation file, `Images_…` and `Annotations_…`.
        split: "val", read from the evaluation file, or "train", from the annotations.
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split, its labels are missing, or the evaluation file is no list.
        BadRecord: a record that cannot be used, unless they are skipped.
    """
    check_split_name(NAME, split, SPLITS)
    return (_load_evaluation if split == "val" else _load_annotations)(root, reading, skipped)


def _load_evaluation(root: Path, reading: Reading, skipped: list[str] | None) -> list[Sample]:
    file = root / EVAL_FILE
    if not is_file(file):
        raise missing_part(root, file, LAYOUT, SOURCE)
    items = read_json(file, strict=False)
    if not isinstance(items, list):
        raise UserError(f"{file}: holds a {type(items).__name__}, expected a list of questions")
    boxes = _Boxes(SplitReader(file, reading, skipped))
    for position, item in enumerate(items):
        with boxes.reader.record():
            if not isinstance(item, dict) or type(item.get("question_id")) is not int:
                raise BadRecord(f"{file}: item {position} is {shortened(item)}, expected an object with a question_id")
            where = f"{file}: item {position} (question_id {item['question_id']})"
            photograph = boxes.reader.photograph(
                where, root / "Images_val" / checked_picture_name(where, "image_id", item.get("image_id")), None
            )
            box, published = _evaluation_box(where, item, boxes)
            groups = _groups(item.get("unique"), item.get("size_group"))
            key = str(item["question_id"])
            boxes.add(where, photograph, box, (item.get("question"), key, key), groups, published)
    return boxes.finish("item")


def _load_annotations(root: Path, reading: Reading, skipped: list[str] | None) -> list[Sample]:
    folder = root / "Annotations_train"
    files = [path for path in entries(folder) if path.suffix == ".json"]
    if not files:
        raise missing_part(root, folder / "*.json", LAYOUT, SOURCE)
    boxes = _Boxes(SplitReader(folder, reading, skipped))
    for file in files:
        where = f"{folder}: {file.name}"
        with boxes.reader.record():
            annotation = _annotation(where, file)
            picture = root / "Images_train" / checked_picture_name(where, "image", annotation["image"])
            photograph = boxes.reader.photograph(where, picture, None)
            for i, one in enumerate(annotation["objects"]):
                named = f"{where}, object {i}"
                if not isinstance(one, dict):
                    raise BadRecord(f"{named} is {shortened(one)}, expected an object")
                if not one.get("referring_sentence"):
                    boxes.wordless += 1
                    continue
                texts = (one["referring_sentence"], file.stem, f"{file.stem}#{i}")
                groups = _groups(one.get("is_unique"), one.get("obj_size"))
                boxes.add(named, photograph, _annotated_box(named, one), texts, groups)
    return boxes.finish("annotation")


class _Boxes:
    """Turns boxes of one split into samples, and counts what was read in another way than it is written."""

    def __init__(self, reader: SplitReader) -> None:
        self.reader = reader
        self.wordless = self.widened = self.coarse = 0

    def add(
        self,
        where: str,
        photograph: Photograph,
        box: Box,
        texts: tuple[Any, str, str],
        groups: dict[str, str],
        published: tuple[int, ...] | None = None,
    ) -> None:
        """A sample of a box; `texts` are its sentence, record id and key, `published` its sides in hundredths."""
        height, width = self.reader.size(photograph)
        sides = [share * side for share, side in zip(box, (width, height) * 2, strict=True)]
        if published:
            sides = [_published_side(*one) for one in zip(sides, published, (width, height) * 2, strict=True)]
        left, right, widened = _at_least_a_pixel(sides[0], sides[2], width)
        top, bottom, heightened = _at_least_a_pixel(sides[1], sides[3], height)
        polygon: Polygon = (left, top, right, top, right, bottom, left, bottom)
        self.widened += widened or heightened
        self.reader.samples.append(
            Sample(
                image_path=photograph.path,
                question=checked_question_text(f"{where}: its sentence", texts[0]),
                answer=None,
                targets=((polygon,),),
                height=height,
                width=width,
                dataset=NAME,
                record_id=texts[1],
                index=len(self.reader.samples),
                groups=groups,
                source=where,
                key=texts[2],
                picture_size=photograph.picture_size,
                upright=photograph.upright,
            )
        )

    def finish(self, what: str) -> list[Sample]:
        """The samples; what is odd goes to the log."""
        for count, told in (
            (self.wordless, "objects have no sentence and are not asked for"),
            (self.widened, "boxes are narrower than a pixel and were widened to one"),
            (self.coarse, "boxes are not those of their corners; ground_truth, in hundredths, is taken"),
        ):
            if count:
                log.warning("%s: %d %s", self.reader.file, count, told)
        return self.reader.finish(what)


def _published_side(fine: float, hundredths: int, side: int) -> float:
    """The whole pixel, 0 to `side`, nearest to `fine` of those that `utils.evaluation.canvas` rounds to `hundredths`.

    Where it rounds none to that, the nearest of those around.
    """
    middle, reach = hundredths * side // GRID, side // GRID + 1
    near = range(max(0, middle - reach), min(side, middle + reach) + 1)
    same = [pixel for pixel in near if _hundredths(pixel, side) == hundredths]
    return float(min(same or near, key=lambda pixel: abs(pixel - fine)))


def _hundredths(pixel: int, side: int) -> int:
    return round(GRID * pixel / side)


def _at_least_a_pixel(start: float, end: float, side: int) -> tuple[float, float, bool]:
    """Two coordinates in pixels, moved apart within 0 to `side` where no whole pixel lies between them."""
    if end - start >= 1:
        return start, end, False
    first = min(max(math.floor((start + end) / 2), 0), side - 1)
    before, same, after = (_hundredths(pixel, side) for pixel in (first - 1, first, first + 1))
    first -= start == end and first > 0 and before == same != after  # as published
    return float(first), float(first + 1), True


def _evaluation_box(where: str, item: dict[str, Any], boxes: _Boxes) -> tuple[Box, tuple[int, ...]]:
    """The box around the corners, or that of ground_truth where they are of another, and ground_truth in hundredths."""
    found = GROUND_TRUTH.fullmatch(str(item.get("ground_truth")).replace(" ", ""))
    coarse = tuple(int(number) for number in found.groups()) if found else ()
    if not found or max(coarse) > GRID or coarse[0] > coarse[2] or coarse[1] > coarse[3]:
        truth = shortened(item.get("ground_truth"))
        raise BadRecord(f"{where}: ground_truth is {truth}, expected {{<x1><y1><x2><y2>}} with 0 <= x1 <= x2 <= 100")
    if "obj_corner" in item:
        fine = _corner_box(where, item["obj_corner"])
        if tuple(int(side * GRID) for side in fine) == coarse:  # as the data set's notebook rounds
            return fine, coarse
    boxes.coarse += 1
    return tuple(side / GRID for side in coarse), coarse


def _annotated_box(where: str, one: dict[str, Any]) -> Box:
    if "obj_corner" in one:
        return _corner_box(where, one["obj_corner"])
    values = one.get("obj_coord")
    if not _are_shares(values, 4):
        raise BadRecord(f"{where}: obj_coord is {shortened(values)}, expected x1, y1, x2, y2 from 0 to 1")
    return _upright_box(values)


def _corner_box(where: str, values: Any) -> Box:
    if not _are_shares(values, 8):
        raise BadRecord(f"{where}: obj_corner is {shortened(values)}, expected 4 corners x, y from 0 to 1")
    return _upright_box(values)


def _are_shares(values: Any, count: int) -> bool:
    """Whether these are coordinates from 0 to 1; objects on the rim overhang it."""
    numbers = isinstance(values, list) and len(values) == count and all(type(v) in (int, float) for v in values)
    return numbers and all(-1 <= value <= 2 for value in values)


def _upright_box(values: list[float]) -> Box:
    """The upright box around points, cut off at the picture's rim."""
    xs, ys = values[0::2], values[1::2]
    return max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), 1.0), min(max(ys), 1.0)


def _groups(unique: Any, size: Any) -> dict[str, str]:
    known = {True: "unique", False: "non-unique"}.get(unique) if isinstance(unique, bool) else None
    return without_none(unique=known, size_group=size.strip().lower() or None if isinstance(size, str) else None)


def _annotation(where: str, file: Path) -> dict[str, Any]:
    """What a file of annotations holds; `image` and `objects` are there."""
    try:
        record = read_json(file, strict=False)
    except UserError as error:
        raise BadRecord(str(error)) from error
    if not isinstance(record, dict):
        raise BadRecord(f"{where} holds a {type(record).__name__}, expected an object")
    record = {"image": f"{file.stem}.png", "objects": [], **record}
    if not isinstance(record["objects"], list):
        raise BadRecord(f"{where}: objects is {shortened(record['objects'])}, expected a list")
    return record


SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=load_vrsbench,
    rules={
        CLEAN: ScoringRules(
            metrics=("pr50", "pr70", "giou"), unit="question", canvas="box", note="boxes around masks are compared"
        ),
        OFFICIAL: ScoringRules(
            metrics=("pr50", "pr70"),
            unit="question",
            canvas="box_grid",
            note="boxes around masks are compared, in hundredths of the picture with inclusive sides, as eval_utils.py "
            "does; the notebook beside it does not add the 1",
        ),
    },
    group_titles={"unique": "object", "size_group": "size"},
)
