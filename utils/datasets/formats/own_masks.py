"""One's own pictures with masks as PNG files and questions as lines of JSON.

    ROOT/images/*
    ROOT/masks/*.png
    ROOT/questions_{split}.jsonl      or ROOT/questions.jsonl, of which splits are then drawn by picture
                                      (utils.datasets.drawn_splits)

A line is `{"image": "a.jpg", "question": "…", "mask": "a.png"}`. `mask` may be a list of files, each a target of its
own. A pixel belongs to a mask where it is not 0 (black); with `value`, where it has that value: a number of grey or of
a palette, or a colour as "#rrggbb"; a list of values makes as many targets of the one mask. Optional are `answer`, a
text; `group`, which results are broken down by; and `id`, the question's name in predictions. A question that nothing
in the picture answers has no mask and `"no_target": true`.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.inputs.picture_files import opened_picture
from model.masks import encode_mask
from utils.datasets.base import CLEAN, GENERAL_METRICS, BadRecord, DatasetSpec, Sample, ScoringRules, Target
from utils.datasets.checks import checked_question_text, shortened, without_none
from utils.datasets.drawn_splits import ALL, pictures_of_split, spellings
from utils.datasets.layout import NotThere, missing_part
from utils.datasets.reading import Reading, SplitReader
from utils.runtime.errors import UserError, permission_denied
from utils.runtime.paths import entries, is_file

NAME = "masks"
LAYOUT = """images/*
masks/*.png
questions_{split}.jsonl, or one questions.jsonl, from which splits are drawn"""
SOURCE = "your own masks and questions (utils/datasets/OWN_MASKS.md)"
FIELDS = ("image", "question", "mask", "value", "answer", "group", "id", "no_target")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
GREY_MODES = ("1", "L", "P", "I")


def load_own_masks(root: Path, split: str, reading: Reading, skipped: list[str] | None = None) -> list[Sample]:
    """All samples of a split.

    Args:
        root: the folder of pictures, masks and questions.
        split: of a questions file, `all`, or a drawn one.
        reading: how records are read.
        skipped: takes what is wrong with each record that is left out.

    Raises:
        UserError: there is no such split.
        BadRecord: a line that cannot be used, unless they are skipped.
    """
    files = question_files(root, split)
    samples: list[Sample] = []
    for file, drawn in files:
        prefix = f"{file.stem}:" if len(files) > 1 else ""
        samples += _LinesReader(root, file, reading, skipped, prefix).read(split if drawn else ALL)
    return [replace(sample, index=i) for i, sample in enumerate(samples)] if len(files) > 1 else samples


def question_files(root: Path, split: str) -> list[tuple[Path, bool]]:
    """The files of a split, and whether the split is to be drawn of them.

    Raises:
        UserError: there is none.
    """
    for name in spellings(split):
        if is_file(root / f"questions_{name}.jsonl"):
            return [(root / f"questions_{name}.jsonl", False)]
    parts = [path for path in entries(root) if re.fullmatch(r"questions_.+\.jsonl", path.name)]
    single = root / "questions.jsonl"
    if parts and split == ALL:
        return [(path, False) for path in parts]
    if is_file(single) and not parts:
        return [(single, True)]
    if parts:
        there = ", ".join(path.stem.removeprefix("questions_") for path in parts)
        raise NotThere(f"{root / f'questions_{split}.jsonl'}: no such split; there are {there}, and {ALL} is all")
    raise missing_part(root, single, LAYOUT, SOURCE)


class _LinesReader:
    """Reads the lines of one file; a mask file that several lines name is decoded once."""

    def __init__(self, root: Path, file: Path, reading: Reading, skipped: list[str] | None, prefix: str) -> None:
        self.root, self.file, self.prefix = root, file, prefix
        self.reader = SplitReader(file, reading, skipped)
        self.masks: dict[tuple[Path, Any], dict[str, Any]] = {}
        self.last: tuple[Path, np.ndarray] | None = None  # lines about one mask usually follow each other

    def read(self, split: str) -> list[Sample]:
        """The samples of the lines whose pictures belong to the split."""
        lines = self._lines()
        names = [str(row.get("image")) for _, row in lines if isinstance(row, dict)]
        chosen = pictures_of_split(self.root, names, split)
        for number, row in lines:
            if isinstance(row, dict) and str(row.get("image")) not in chosen:
                continue
            with self.reader.record():
                self._add(number, row)
        return self.reader.finish("line")

    def _lines(self) -> list[tuple[int, Any]]:
        """(number, value) of each line that is not blank; text that is no JSON stands as an error in its place."""
        try:
            text = self.file.read_text("utf-8-sig")
        except PermissionError as error:
            raise permission_denied(self.file) from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.file}: no UTF-8 ({error.reason} at byte {error.start:,}); save it as UTF-8"
            ) from error
        lines = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    lines.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:  # numbers of over 4,300 digits too
                    lines.append((number, BadRecord(f"{self.file}: line {number} is no JSON ({error})")))
        return lines

    def _add(self, number: int, row: Any) -> None:
        if isinstance(row, BadRecord):
            raise row
        where = f"{self.file}: line {number}"
        check_row(where, row)
        targets = self._targets(where, row)
        photograph = self.reader.photograph(
            where, inside(where, self.root / "images", row["image"]), tuple(targets[0]["size"]) if targets else None
        )
        frame = tuple(targets[0]["size"]) if targets else self.reader.size(photograph)
        self.reader.samples.append(
            Sample(
                image_path=photograph.path,
                question=checked_question_text(f"{where}: question", row["question"]),
                answer=row.get("answer"),
                targets=targets,
                height=frame[0],
                width=frame[1],
                dataset=NAME,
                record_id=str(row.get("id", f"{self.prefix}{number}")),
                index=len(self.reader.samples),
                groups=without_none(group=row.get("group")),
                source=where,
                key=str(row.get("id", f"{self.prefix}{number}")),
                picture_size=photograph.picture_size,
                upright=photograph.upright,
            )
        )

    def _targets(self, where: str, row: dict[str, Any]) -> tuple[Target, ...]:
        files = row.get("mask") or []
        files = files if isinstance(files, list) else [files]
        values = row.get("value")
        if isinstance(values, list):
            if len(files) != 1:
                raise BadRecord(f"{where}: value is a list, which needs exactly one mask; it has {len(files)}")
            pairs = [(files[0], value) for value in values]
        else:
            pairs = [(file, values) for file in files]
        targets = tuple(self._mask(where, inside(where, self.root / "masks", file), value) for file, value in pairs)
        sizes = {tuple(target["size"]) for target in targets}
        if len(sizes) > 1:
            told = " and ".join(sorted(f"{width}x{height}" for height, width in sizes))
            raise BadRecord(f"{where}: its masks are of different sizes: {told} pixels")
        return targets

    def _mask(self, where: str, path: Path, value: int | str | None) -> dict[str, Any]:
        """A mask file, or the part of it that has a value, as an RLE."""
        if (path, value) not in self.masks:
            if self.last is None or self.last[0] != path:
                self.last = path, mask_values(where, path)
            self.masks[path, value] = encode_mask(belonging(where, path, self.last[1], value))
        return self.masks[path, value]


def check_row(where: str, row: Any) -> None:
    """Check the fields of a line.

    Raises:
        BadRecord: one is missing, unknown, or of the wrong kind.
    """
    if not isinstance(row, dict):
        raise BadRecord(f"{where} is {shortened(row)}, expected an object")
    if unknown := [name for name in row if name not in FIELDS]:
        raise BadRecord(f"{where} has the field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    for name in ("image", "question"):
        if not isinstance(row.get(name), str):
            raise BadRecord(f"{where}: {name} is {shortened(row.get(name))}, expected a text")
    for name in ("answer", "group"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise BadRecord(f"{where}: {name} is {shortened(row[name])}, expected a text or null")
    if not isinstance(row.get("id", ""), (str, int)):
        raise BadRecord(f"{where}: id is {shortened(row['id'])}, expected a text or a number")
    values = row["value"] if isinstance(row.get("value"), list) else [row.get("value")]
    if not values:
        raise BadRecord(f"{where}: value is an empty list, expected a value for each target")
    for value in values:
        if not (value is None or type(value) is int or (isinstance(value, str) and COLOUR.fullmatch(value))):
            raise BadRecord(f'{where}: value is {shortened(value)}, expected a whole number or a colour "#rrggbb"')
    if row.get("no_target", False) is not (not row.get("mask")):
        told = "it has a mask and no_target is true" if row.get("mask") else "it has no mask"
        cure = "" if row.get("mask") else '; where nothing in the picture answers it, it says "no_target": true'
        raise BadRecord(f"{where}: {told}{cure}")


def inside(where: str, folder: Path, name: Any) -> Path:
    """A file in a folder of the data set.

    Raises:
        BadRecord: `name` is no name, or leads out of it.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadRecord(f"{where}: {shortened(name)} is no file's name")
    relative = Path(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts:
        raise BadRecord(f"{where}: {shortened(name)} is not in {folder}; give its name there")
    return folder / relative


def mask_values(where: str, path: Path) -> np.ndarray:
    """A mask file's pixels as they are stored: integers [H, W] of grey or palette, or uint8[H, W, 3].

    Raises:
        BadRecord: it is missing, cannot be read, or is a JPEG, which changes values.
    """
    try:
        with opened_picture(path) as picture:
            if picture.format == "JPEG":
                raise BadRecord(f"{where}: its mask {path} is a JPEG, which blurs masks; save it as PNG")
            if picture.mode in GREY_MODES or picture.mode.startswith("I;16"):
                return np.asarray(picture).astype(np.int64)
            return grey_or_colours(picture)
    except UserError as error:
        if isinstance(error, BadRecord):
            raise
        if isinstance(error.__cause__, FileNotFoundError):
            raise BadRecord(f"{where}: its mask {path} is missing") from error
        raise BadRecord(f"{where}: its mask {error}") from error


def grey_or_colours(picture: Image.Image) -> np.ndarray:
    """Of a picture in colours: what is grey throughout as one channel, alpha dropped."""
    pixels = np.asarray(picture.convert("RGB"))
    grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    return pixels[..., 0].astype(np.int64) if grey else pixels


def belonging(where: str, path: Path, values: np.ndarray, value: int | str | None) -> np.ndarray:
    """Which pixels belong to a target: bool[H, W].

    Raises:
        BadRecord: none does, or a number is asked for in a mask of colours.
    """
    colours = values.ndim == 3
    if value is None:
        mask = values.any(axis=2) if colours else values != 0
    elif isinstance(value, str):
        wanted = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
        mask = (values == wanted).all(axis=2) if colours else (values == wanted[0]) & (len(set(wanted)) == 1)
    elif colours:
        raise BadRecord(f'{where}: value is {value}, but {path} is in colours; give the colour as "#rrggbb"')
    else:
        mask = values == value
    if not mask.any():
        raise BadRecord(
            f"{where}: no pixel of its mask {path} {'is set' if value is None else f'has the value {value!r}'}"
        )
    return mask


SPEC = DatasetSpec(
    name=NAME,
    splits=("train", "val", "test", ALL),
    layout=LAYOUT,
    source=SOURCE,
    loader=load_own_masks,
    group_titles={"group": "group"},
    rules={CLEAN: ScoringRules(GENERAL_METRICS)},
    no_target=True,
)
