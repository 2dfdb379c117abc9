"""Reads the output folders of evaluations: metrics.json, scores.jsonl and predictions.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.evaluation.controls import NO_CONTROL
from utils.evaluation.metrics_file import CURE, read_metrics
from utils.evaluation.predictions import FILE as PREDICTIONS_FILE
from utils.evaluation.predictions import Record, read_predictions
from utils.evaluation.scores_file import SCORES_FILE, Pair, read_pairs
from utils.runtime.errors import UserError
from utils.runtime.paths import is_file

SIDE_LETTERS = "AB"


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


def _read_run(folder: Path, name: str) -> Run:
    metrics = read_metrics(folder)
    pairs = read_pairs(folder / SCORES_FILE)
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
