"""Reads scores.jsonl: the one reader of the page and of comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.evaluation.controls import CONTROLS, NO_CONTROL
from utils.evaluation.header import COUNT, NUMBER, OBJECT, POSITIVE, TEXT, Kind, check_field, or_null
from utils.evaluation.metrics_file import CURE
from utils.evaluation.scoring import STATUSES
from utils.runtime.errors import UserError
from utils.runtime.json_files import parse_json
from utils.runtime.paths import is_file

SCORES_FILE = "scores.jsonl"
CONTROL = Kind(f"one of {', '.join(CONTROLS)}", lambda value: TEXT.fits(value) and value in CONTROLS)
SHARE = Kind("a number from 0 to 1", lambda value: NUMBER.fits(value) and 0 <= value <= 1)
FIELDS = {
    "id": TEXT,
    **dict.fromkeys(("picture", "record"), TEXT),
    **dict.fromkeys(("target", "mask"), or_null(COUNT)),
    "iou": SHARE,
    **dict.fromkeys(("targets", "intersection", "union", "area"), COUNT),
    "pixels": POSITIVE,
    "score": or_null(SHARE),
    "status": Kind(f"one of {', '.join(STATUSES)}", lambda value: TEXT.fits(value) and value in STATUSES),
    "groups": OBJECT,
}


@dataclass(frozen=True)
class Pair:
    """One scored pair of a predicted mask and a target.

    Args:
        id: of the record, unique in its split.
        picture: which one, the unit of resampling.
        target: which of the record's targets; None where a mask was predicted that no target is for.
        mask: which of the predicted masks; None where there is none for the target.
        iou: 0 to 1.
        intersection: pixels in both.
        union: pixels in either.
        area: pixels of the target.
        pixels: of the frame.
        score: confidence of the mask, or None.
        status: one of `scoring.STATUSES`, of the whole answer.
        groups: values that results are broken down by.
        targets: of the question.
        record: id of the record that the question stands in.
    """

    id: str
    picture: str
    target: int | None
    mask: int | None
    iou: float
    intersection: int
    union: int
    area: int
    pixels: int
    score: float | None
    status: str
    groups: Mapping[str, Any] = field(default_factory=dict)
    targets: int = 1
    record: str = ""


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a scores.jsonl, without those under controls.

    Raises:
        UserError: it is missing or has none, one stands there twice, or a line lacks a field or has what cannot be;
            file, line and field are named.
    """
    if not is_file(path):
        raise UserError(f"{path}: no such file; {CURE}")
    pairs = [_pair(where, value) for where, value in _lines(path)]
    if not pairs:
        raise UserError(f"{path}: holds no scores; {CURE}")
    twice = [key for key, count in Counter((pair.id, pair.target, pair.mask) for pair in pairs).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: {len(twice)} pairs stand there more than once, the first of record {twice[0][0]!r}; {CURE}"
        )
    return pairs


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's object under no control, and what errors call it."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number:,}"
            value = parse_json(line, where, CURE)
            if not isinstance(value, dict):
                raise UserError(f"{where}: no object; {CURE}")
            control = value.get("control", NO_CONTROL)
            check_field(where, "control", control, CONTROL, CURE)
            if control == NO_CONTROL:
                yield where, value


def _pair(where: str, value: dict[str, Any]) -> Pair:
    for name, kind in FIELDS.items():
        if name not in value:
            raise UserError(f"{where}: {name} is missing, expected {kind.expected}; {CURE}")
        check_field(where, name, value[name], kind, CURE)
    pair = Pair(**{name: value[name] for name in FIELDS})
    if not pair.intersection <= pair.union <= pair.pixels or pair.area > pair.pixels:
        raise UserError(
            f"{where}: intersection {pair.intersection}, union {pair.union} and area {pair.area} cannot be in "
            f"{pair.pixels} pixels, expected intersection <= union <= pixels and area <= pixels; {CURE}"
        )
    return pair
