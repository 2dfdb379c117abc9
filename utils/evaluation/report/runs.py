"""Reads the output folders of evaluations: metrics.json, scores.jsonl and predictions.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.predictions import FILE as PREDICTIONS_FILE
from utils.evaluation.predictions import Record, read_predictions
from utils.evaluation.scoring import STATUSES
from utils.runtime.errors import UserError
from utils.runtime.json_files import parse_json, read_json
from utils.runtime.paths import is_file

METRICS_FILE, SCORES_FILE = "metrics.json", "scores.jsonl"
CURE = "evaluate again with eval.py, or score predictions with python -m utils.evaluation.score, to write it"
SIDE_LETTERS = "AB"
_MISSING = object()


@dataclass(frozen=True)
class Pair:
    """One scored pair of a predicted mask and a target.

    Args:
        id: of the record, unique in its split.
        target: which of the record's targets; None where a mask was predicted that no target is for.
        mask: which of the predicted masks; None where there is none for the target.
        iou: 0 to 1.
        area: pixels of the target.
        pixels: of the frame.
        score: confidence of the mask, or None.
        status: one of STATUSES, of the whole answer.
        groups: values that results are broken down by.
    """

    id: str
    target: int | None
    mask: int | None
    iou: float
    area: int
    pixels: int
    score: float | None
    status: str
    groups: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """An evaluation: its folder, a name to show, and what its files hold of records under no control.

    Args:
        folder: of its files.
        name: to show.
        metrics: of metrics.json; what is not known of someone else's predictions is not in it.
        pairs: of scores.jsonl.
        answers: lines of predictions.jsonl, by the record's id.
    """

    folder: Path
    name: str
    metrics: dict[str, Any]
    pairs: list[Pair]
    answers: dict[str, Record]


def read_runs(folders: list[Path]) -> list[Run]:
    """The evaluations in one or two folders.

    Raises:
        UserError: there are none or more than two, or a file is missing or holds something else.
    """
    if not 1 <= len(folders) <= 2:
        raise UserError(f"{len(folders)} folders of evaluations; name one, or two to compare")
    return [_read_run(folder, name) for folder, name in zip(folders, run_names(folders), strict=True)]


def run_names(folders: list[Path]) -> list[str]:
    """Short names by which folders can be told apart: the ends of their paths, two parts where they have them."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 2
    while depth < max(map(len, parts)) and len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]).replace("//", "/") for part in parts]


def units_of(runs: list[Run], default: str) -> str:
    """What was scored: "target", or "question" where the targets of a record counted as their union.

    Raises:
        UserError: one of two evaluations scored targets, the other questions.
    """
    units = [object_of(run.metrics, "protocol").get("unit", default) for run in runs]
    if len(set(units)) > 1:
        raise UserError(
            f"{runs[0].folder} and {runs[1].folder}: one scores each target and the other all of a question as one, "
            "so that their scores are of different masks; report on each alone"
        )
    return units[0]


def side(runs: list[Run], number: int) -> str:
    """The letter of an evaluation where there are two."""
    return SIDE_LETTERS[number] if len(runs) > 1 else ""


def object_of(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part of metrics.json; empty where it is missing."""
    value = metrics.get(name)
    return value if isinstance(value, dict) else {}


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of metrics.json.

    Raises:
        UserError: it is missing or holds no scores.
    """
    path = folder / METRICS_FILE
    if not is_file(path):
        raise UserError(f"{path}: no such file; {CURE}")
    metrics = read_json(path, CURE)
    if not isinstance(metrics, dict) or not isinstance(metrics.get("overall"), dict):
        raise UserError(f"{path}: holds no scores (`overall`); {CURE}")
    return metrics


def _read_run(folder: Path, name: str) -> Run:
    metrics = read_metrics(folder)
    if not is_file(folder / SCORES_FILE):
        raise UserError(f"{folder / SCORES_FILE}: no such file; {CURE}")
    pairs = [_pair(record, where) for where, record in _records(folder / SCORES_FILE)]
    if not pairs:
        raise UserError(f"{folder / SCORES_FILE}: holds no scores; {CURE}")
    if not is_file(folder / PREDICTIONS_FILE):
        raise UserError(
            f"{folder / PREDICTIONS_FILE}: no such file; the masks are drawn from it: copy the scored predictions "
            "there under that name"
        )
    answers = read_predictions(folder / PREDICTIONS_FILE)[1][NO_CONTROL]
    for pair in pairs:
        known = len(answers[pair.id]["masks"]) if pair.id in answers else 0
        if pair.mask is not None and pair.mask >= known:
            raise UserError(
                f"{folder / PREDICTIONS_FILE}: record {pair.id!r} has {known} masks, but {SCORES_FILE} scores its "
                f"mask {pair.mask}; the two files are of different evaluations: {CURE}"
            )
    return Run(folder, name, metrics, pairs, answers)


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's object under no control, and what errors call it."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            record = parse_json(line, where, CURE)
            if not isinstance(record, dict):
                raise UserError(f"{where}: no object; {CURE}")
            if record.get("control", NO_CONTROL) == NO_CONTROL:
                yield where, record


def _pair(record: dict[str, Any], where: str) -> Pair:
    number, index = (int, float), (int, type(None))
    pair = Pair(
        id=_get(record, "id", str, where),
        target=_get(record, "target", index, where),
        mask=_get(record, "mask", index, where),
        iou=_get(record, "iou", number, where),
        area=_get(record, "area", int, where),
        pixels=_get(record, "pixels", int, where),
        score=_get(record, "score", (*number, type(None)), where),
        status=_get(record, "status", str, where),
        groups=_get(record, "groups", dict, where),
    )
    if pair.status not in STATUSES:
        raise UserError(f"{where}: its status is {pair.status!r}; known are {', '.join(STATUSES)}; {CURE}")
    if pair.pixels < 1 or not 0 <= pair.iou <= 1:
        raise UserError(f"{where}: a frame of {pair.pixels} pixels and an IoU of {pair.iou} cannot be; {CURE}")
    return pair


def _get(record: dict[str, Any], name: str, kinds: Any, where: str) -> Any:
    value = record.get(name, _MISSING)
    if value is _MISSING:
        raise UserError(f"{where}: has no `{name}`; {CURE}")
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"{where}: its `{name}` is {str(value)[:80]!r}, which it cannot be; {CURE}")
    return value
