"""RefSegRS, referring segmentation in aerial tiles, in its published layout.

    ROOT/output_phrase_{train,val,test}.txt      a line: ID, white space, phrase
    ROOT/images/ID.tif
    ROOT/masks/ID.tif                            greyscale; 255 (or 1) is the target

ROOT may be the folder that holds `RefSegRS` too. A picture may have several lines; they share its mask
(earth-insights/SegEarth-R1@e796b3b RS_val_dataset.py reads it so).
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from utils.datasets.base import BadRecord, DatasetSpec, Sample, ScoringRules
from utils.datasets.checks import checked_question_text, shortened
from utils.datasets.drseg import question_keys
from utils.datasets.label_masks import LabelMask, read_label_mask
from utils.datasets.layout import check_split_name, folder_or_inner, missing_part
from utils.datasets.reading import Reading, SplitReader
from utils.runtime.errors import UserError
from utils.runtime.paths import is_file, is_folder

log = logging.getLogger(__name__)

NAME = "refsegrs"
SPLITS = ("train", "val", "test")
LINE = re.compile(r"(\d+)\s+(\S.*)", re.ASCII)
FOREGROUND = (1, 255)
LAYOUT = "output_phrase_{split}.txt\nimages/ID.tif\nmasks/ID.tif"
SOURCE = "https://huggingface.co/datasets/JessicaYuan/RefSegRS"


def load_refsegrs(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """All samples of a split, one a line, checked; masks are decoded and kept as run lengths.

    Args:
        root: the folder that holds the lists, `images` and `masks`, or the one that holds `RefSegRS`.
        split: "train", "val" or "test".
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split, its list or a folder is missing, or the list is no text in UTF-8.
        BadRecord: a line that cannot be used, unless they are skipped.
    """
    check_split_name(NAME, split, SPLITS)
    top = folder_or_inner(root, "RefSegRS")
    file = top / f"output_phrase_{split}.txt"
    if not is_file(file):
        raise missing_part(root, file, LAYOUT, SOURCE)
    for part in ("images", "masks"):
        if not is_folder(top / part):
            raise missing_part(root, top / part, LAYOUT, SOURCE)
    lines = [(number, line) for number, line in enumerate(read_lines(file), 1) if line.strip()]
    matches = [LINE.fullmatch(line.strip()) for _, line in lines]
    keys = question_keys([{"id": match[1] if match else line} for match, (_, line) in zip(matches, lines, strict=True)])
    reader = _Reader(top, SplitReader(file, reading, skipped))
    for (number, line), match, (key,) in zip(lines, matches, keys, strict=True):
        with reader.split.record():
            if not match:
                raise BadRecord(f"{file}: line {number} is {shortened(line)}, expected a number and a phrase")
            reader.add(f"{file}: line {number} (id {match[1]})", match[1], match[2], key)
    if reader.other:
        log.warning(
            "%s: %d masks have values besides 0, 1 and 255, the first %s; they count as background",
            *(file, len(reader.other), reader.other[0]),
        )
    return reader.split.finish("line")


def read_lines(file: Path) -> list[str]:
    """The lines of a text.

    Raises:
        UserError: it cannot be read as UTF-8.
    """
    try:
        return file.read_text("utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file}: cannot be read as text in UTF-8 ({error}); save it as UTF-8") from error


class _Reader:
    """Turns lines into samples; each mask is decoded once."""

    def __init__(self, top: Path, split: SplitReader) -> None:
        self.top, self.split = top, split
        self.masks: dict[str, LabelMask] = {}
        self.other: list[str] = []  # masks with values that mean nothing

    def add(self, where: str, name: str, phrase: str, key: str) -> None:
        question = checked_question_text(f"{where}: phrase", phrase)
        mask = self._mask(where, name)
        photograph = self.split.photograph(where, self.top / "images" / f"{name}.tif", mask.frame)
        self.split.samples.append(
            Sample(
                image_path=photograph.path,
                question=question,
                answer=None,
                targets=(mask.rle,),
                height=mask.frame[0],
                width=mask.frame[1],
                dataset=NAME,
                record_id=name,
                index=len(self.split.samples),
                source=where,
                key=key,
                picture_size=photograph.picture_size,
                upright=photograph.upright,
            )
        )

    def _mask(self, where: str, name: str) -> LabelMask:
        if name not in self.masks:
            mask = self.masks[name] = read_label_mask(where, self.top / "masks" / f"{name}.tif", FOREGROUND)
            if mask.other:
                self.other.append(f"masks/{name}.tif")
        if not self.masks[name].pixels:
            raise BadRecord(f"{where}: its mask {self.top / 'masks' / f'{name}.tif'} marks no pixel")
        return self.masks[name]


PRECISIONS = tuple(f"pr{share}" for share in (50, 60, 70, 80, 90))
SPEC = DatasetSpec(
    name=NAME,
    splits=SPLITS,
    layout=LAYOUT,
    source=SOURCE,
    loader=load_refsegrs,
    rules={
        "clean": ScoringRules(metrics=("giou", "ciou", *PRECISIONS), unit="question"),
        "official": ScoringRules(
            unit="question",
            metrics=("giou", "ciou", *PRECISIONS),
            canvas="square480",
            empty_iou=0.0,
            note="as the evaluation of LAVT and RMSIN, on pictures and masks stretched to 480x480",
        ),
        "segearth": ScoringRules(
            unit="question",
            metrics=("giou", "ciou", *(f"{name}_strict" for name in PRECISIONS)),
            canvas="letterbox1024",
            note="as SegEarth-R1's evaluation; smoothing by 1e-5 and 1e-10 is left out",
        ),
    },
)
