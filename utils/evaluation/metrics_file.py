"""Reads metrics.json, which a person may have written to: what the page and comparisons use of it is checked."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from utils.evaluation.header import COUNT, FIELDS, NUMBER, OBJECT, TEXT, Kind, check_field, check_fields, or_null
from utils.evaluation.metrics import METRICS
from utils.evaluation.scoring import MISSING, STATUSES
from utils.runtime.errors import UserError
from utils.runtime.json_files import read_json
from utils.runtime.paths import is_file

METRICS_FILE = "metrics.json"
CURE = "evaluate again with eval.py, or score predictions with python -m utils.evaluation.score, to write it"
INTERVAL = Kind(
    "two numbers, or null",
    lambda value: value is None or isinstance(value, list) and len(value) == 2 and all(map(NUMBER.fits, value)),
)
BINS = Kind("a list of objects", lambda value: isinstance(value, list) and all(map(OBJECT.fits, value)))
NAMED = {  # beside the header's fields
    "code": or_null(TEXT),
    **dict.fromkeys(("versions", "hardware", "checkpoint", "config", "answers"), OBJECT),
    **{f"answers.{name}": or_null(COUNT) for name in ("records", *STATUSES, "malformed")},
}
BIN = {"count": COUNT, **dict.fromkeys(("low", "high", "confidence", "iou"), NUMBER)}

_check_field = partial(check_field, cure=CURE)


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of an evaluation's metrics.json, without what is null in it.

    Raises:
        UserError: it is missing, holds no scores, or a field holds something else than it should; file and field are
            named.
    """
    path = folder / METRICS_FILE
    if not is_file(path):
        raise UserError(f"{path}: no such file; {CURE}")
    metrics = read_json(path, CURE)
    if not isinstance(metrics, dict):
        raise UserError(f"{path}: holds no object; {CURE}")
    metrics = {name: value for name, value in metrics.items() if value is not None}
    if "overall" not in metrics:
        raise UserError(f"{path}: holds no scores (`overall`); {CURE}")
    _check(str(path), metrics)
    return metrics


def _check(where: str, metrics: dict[str, Any]) -> None:
    check_fields(where, metrics, {**FIELDS, **NAMED}, CURE)
    _check_scores(where, "", metrics)
    controls = metrics.get("controls", {})
    _check_field(where, "controls", controls, OBJECT)
    for control, found in controls.items():
        _check_field(where, f"controls.{control}", found, OBJECT)
        _check_scores(where, f"controls.{control}.", found)
        _check_field(where, f"controls.{control}.{MISSING}", found.get(MISSING, 0), COUNT)
    if "calibration" in metrics:
        _check_calibration(where, metrics["calibration"])


def _check_scores(where: str, before: str, scores: dict[str, Any]) -> None:
    """Check `overall`, and `by_GROUP`, whose values have a summary each."""
    _check_field(where, f"{before}overall", scores.get("overall"), OBJECT)
    _check_summary(where, f"{before}overall", scores["overall"])
    for name in (name for name in scores if name.startswith("by_")):
        _check_field(where, before + name, scores[name], OBJECT)
        for value, summary in scores[name].items():
            _check_field(where, f"{before}{name}.{value}", summary, OBJECT)
            _check_summary(where, f"{before}{name}.{value}", summary)


def _check_summary(where: str, name: str, summary: dict[str, Any]) -> None:
    _check_field(where, f"{name}.count", summary.get("count"), COUNT)
    for metric in METRICS:
        _check_field(where, f"{name}.{metric}", summary.get(metric), or_null(NUMBER))
        _check_field(where, f"{name}.{metric}_interval", summary.get(f"{metric}_interval"), INTERVAL)


def _check_calibration(where: str, calibration: Any) -> None:
    _check_field(where, "calibration", calibration, OBJECT)
    _check_field(where, "calibration.ece", calibration.get("ece"), NUMBER)
    _check_field(where, "calibration.bins", calibration.get("bins"), BINS)
    for i, one in enumerate(calibration["bins"]):
        for name, kind in BIN.items():
            _check_field(where, f"calibration.bins[{i}].{name}", one.get(name), kind)
