"""utils.evaluation.header: what the first line of a predictions file may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.training import CHECKOUT
from utils.datasets.base import DatasetSpec
from utils.evaluation.header import COMPUTED, FORMAT, checked_header
from utils.evaluation.scoring import score_predictions
from utils.runtime.errors import UserError

DECODING = {"max_new_tokens": 256, "temperature": 0, "top_p": 0.9, "beams": 1, "reasoning": True, "seed": None}


def checked(**fields: Any) -> dict[str, Any]:
    return checked_header("f.jsonl, line 1", {"format": FORMAT, **fields})


def nested(name: str, value: Any) -> dict[str, Any]:
    """The object in which a name with dots leads to a value."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": {}, "protocol": {}},
        {"data": {"split": "test"}, "protocol": {"kind": "ours", "own": [1], "decoding": None}, "made_by": None},
        {"protocol": {"limit": None, "decoding": {}, "unit": "question", "skip_bad_records": True}},
        {"protocol": {"limit": 1, "decoding": DECODING}, "data": {"unasked": ["a"], "skipped": [], "records": 0}},
    ],
)
def test_all_fields_may_be_left_out_and_others_are_kept(fields: dict[str, Any]) -> None:
    assert checked(**fields) == {"format": FORMAT, **fields}


def test_what_is_shipped_has_such_a_header() -> None:
    with open(CHECKOUT / "PixDLM/mini/eval/predictions.jsonl") as file:
        header = json.loads(next(file))
    assert checked_header("", header) is header


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("data", [None, [], "x"], "an object"),
        ("protocol", [None, 3], "an object"),
        *((f"data.{name}", [None, 1, True, ["x"]], "a text") for name in ("dataset", "split", "sha256")),
        *((f"data.{name}", [None, "9", 9.0, True, -1], "a whole number from 0 on") for name in ("records", "pictures")),
        *((f"data.{name}", [None, 3, "a", ["a", 1], {"a": 1}], "a list of texts") for name in ("skipped", "unasked")),
        *(
            (f"protocol.{name}", [None, 1, False, []], "a text")
            for name in ("kind", "reasoning", "answer_format", "matching", "polygons", "orientation")
        ),
        ("protocol.unit", [None, "mask", 1, ["target"]], "target or question"),
        ("protocol.limit", [0, -2, "5", 5.0, True, False], "a whole number from 1 on, or null"),
        *(
            (f"protocol.{name}", [None, 0, 1, "true"], "true or false")
            for name in ("skip_bad_records", "uses_ground_truth_text", "neutral_fusion")
        ),
        ("protocol.decoding", ["greedy", [], 0, False], "an object, or null"),
        *((f"protocol.decoding.{name}", [None, "0", True], "a number") for name in ("temperature", "top_p")),
        *(
            (f"protocol.decoding.{name}", [None, "1", 1.5, 0, True], "a whole number from 1 on")
            for name in ("beams", "max_new_tokens")
        ),
    ],
)
def test_a_field_of_another_type_is_told(name: str, values: list[Any], expected: str) -> None:
    for value in values:
        with pytest.raises(UserError) as told:
            checked(**nested(name, value))
        assert str(told.value) == f"f.jsonl, line 1: {name} is {json.dumps(value)}, expected {expected}"


@pytest.mark.parametrize("name", [*COMPUTED, "by_altitude", "by_us"])
def test_a_header_cannot_stand_in_for_what_is_scored(name: str) -> None:
    with pytest.raises(UserError, match=f"^f.jsonl, line 1: the header has a field '{name}', which scoring computes"):
        checked(**{name: {"giou": 1}})


def test_all_that_scoring_computes_is_kept_from_headers() -> None:
    spec = DatasetSpec("roofs", ("all",), "", "", list, group_titles={"region": "region"})
    metrics, _ = score_predictions([], {"none": {}, "blank-question": {}}, spec.scoring(), spec.group_titles)
    beside = {"official", "grounded"}  # which `score` adds for the data sets that have them
    assert {name for name in metrics if not name.startswith("by_")} | beside == set(COMPUTED)
