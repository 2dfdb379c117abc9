"""utils.evaluation.metrics_file: what is said of a metrics.json that a person has written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.utils.evaluation.report.evaluated import make_metrics
from utils.evaluation.metrics_file import read_metrics
from utils.runtime.errors import UserError

CURE = "evaluate again with eval.py, or score"


def write(folder: Path, content: Any) -> Path:
    path = folder / "metrics.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_eval_py_writes_is_read_and_what_is_null_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, make_metrics())
    assert read_metrics(tmp_path) == make_metrics()
    write(tmp_path, make_metrics(calibration=None, protocol=None))
    assert read_metrics(tmp_path).keys() == make_metrics().keys() - {"calibration", "protocol"}
    write(tmp_path, {"overall": {"count": 3}, "mine": [1]})
    assert read_metrics(tmp_path) == {"overall": {"count": 3}, "mine": [1]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not JSON, the file is empty"),
        ('{"overall": {"cou', "not JSON .*ends in the middle"),
        ("[]", "holds no object"),
        ("null", "holds no object"),
        ("{}", r"holds no scores \(`overall`\)"),
        ({"overall": None}, r"holds no scores \(`overall`\)"),
    ],
)
def test_what_is_no_metrics_json_is_told(tmp_path: Path, content: Any, told: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=f"^{path}: {told}.*; {CURE}"):
        read_metrics(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"^{path}: no such file; {CURE}"):
        read_metrics(tmp_path)


ONE = {"count": 1}
BIN = {"low": 0.8, "high": 0.9, "count": 1, "confidence": 0.85, "iou": 0.5}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"overall": [1]}, r"overall is \[1\], expected an object"),
        ({"overall": {"giou": 0.5}}, "overall.count is null, expected a whole number from 0 on"),
        ({"overall": {"count": "12"}}, 'overall.count is "12", expected a whole number'),
        ({"overall": {**ONE, "giou": "high"}}, 'overall.giou is "high", expected a number, or null'),
        ({"overall": {**ONE, "ciou_interval": [0.5]}}, r"overall.ciou_interval is \[0.5\], expected two numbers"),
        ({"overall": {**ONE, "giou_interval": [0.5, "x"]}}, "overall.giou_interval is .*, expected two numbers"),
        ({"by_altitude": [1]}, r"by_altitude is \[1\], expected an object"),
        ({"by_altitude": {"30": 0.5}}, "by_altitude.30 is 0.5, expected an object"),
        ({"by_altitude": {"30": {}}}, "by_altitude.30.count is null"),
        ({"controls": []}, r"controls is \[\], expected an object"),
        ({"controls": {"blank-question": 3}}, "controls.blank-question is 3, expected an object"),
        ({"controls": {"blank-question": {}}}, "controls.blank-question.overall is null, expected an object"),
        ({"controls": {"b": {"overall": ONE, "by_altitude": 3}}}, "controls.b.by_altitude is 3, expected an object"),
        ({"controls": {"b": {"overall": ONE, "missing": "x"}}}, 'controls.b.missing is "x", expected a whole number'),
        ({"calibration": 0.1}, "calibration is 0.1, expected an object"),
        ({"calibration": {"bins": []}}, "calibration.ece is null, expected a number"),
        ({"calibration": {"ece": 0.1}}, "calibration.bins is null, expected a list of objects"),
        ({"calibration": {"ece": 0.1, "bins": [3]}}, r"calibration.bins is \[3\], expected a list of objects"),
        (
            {"calibration": {"ece": 0.1, "bins": [BIN, {**BIN, "count": -1}]}},
            r"calibration.bins\[1\].count is -1, expected",
        ),
        ({"calibration": {"ece": 0.1, "bins": [{**BIN, "iou": "x"}]}}, r'calibration.bins\[0\].iou is "x", expected'),
        ({"answers": 3}, "answers is 3, expected an object"),
        ({"answers": {"missing": "2"}}, 'answers.missing is "2", expected a whole number from 0 on, or null'),
        ({"data": "drseg"}, 'data is "drseg", expected an object'),
        ({"data": {"records": "12"}}, 'data.records is "12", expected a whole number'),
        ({"data": {"dataset": ["drseg"]}}, r"data.dataset is \[\"drseg\"\], expected a text"),
        ({"data": {"skipped": 3}}, "data.skipped is 3, expected a list of texts"),
        ({"protocol": {"limit": "5"}}, 'protocol.limit is "5", expected a whole number'),
        ({"protocol": {"unit": ["target"]}}, r"protocol.unit is .*, expected target or question"),
        ({"protocol": {"decoding": {"temperature": "hot"}}}, 'protocol.decoding.temperature is "hot", expected'),
        ({"versions": ["2.14"]}, r"versions is \[\"2.14\"\], expected an object"),
        ({"checkpoint": "c"}, 'checkpoint is "c", expected an object'),
        ({"code": 12}, "code is 12, expected a text"),
    ],
)
def test_a_field_that_holds_something_else_is_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = write(tmp_path, make_metrics(**changes))
    with pytest.raises(UserError, match=f"^{path}: {told}.*; {CURE}"):
        read_metrics(tmp_path)
