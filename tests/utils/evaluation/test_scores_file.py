"""utils.evaluation.scores_file: pairs, and what is said of lines that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.evaluation.scores_file import Pair, read_pairs
from utils.runtime.errors import UserError

LINE = {
    "id": "r0", "picture": "p", "target": 0, "targets": 1, "record": "r0", "mask": None, "merged": False, "iou": 0.25,
    "intersection": 5, "union": 20,
    "area": 10, "pixels": 100, "score": None, "status": "ok", "groups": {"altitude": 30},
}  # fmt: skip
LEFT_OUT = object()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.jsonl"


def write(path: Path, *lines: dict[str, Any] | str) -> None:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def changed(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**LINE, **fields}.items() if value is not LEFT_OUT}


def test_pairs_under_no_control_are_read(path: Path) -> None:
    write(path, LINE, changed(control="blank-question"), changed(id="r1", control="none", iou=1, score=0.5))
    pair = Pair("r0", "p", 0, None, 0.25, 5, 20, 10, 100, None, "ok", {"altitude": 30}, record="r0")
    first, second = read_pairs(path)
    assert first == pair and (second.id, second.iou, second.score) == ("r1", 1, 0.5)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        *(({name: LEFT_OUT}, f"{name} is missing, expected ") for name in LINE if name != "merged"),
        ({"id": 3}, "id is 3, expected a text"),
        ({"iou": 1.5}, "iou is 1.5, expected a number from 0 to 1"),
        ({"iou": True}, "iou is true, expected a number from 0 to 1"),
        ({"target": -1}, "target is -1, expected a whole number from 0 on, or null"),
        ({"mask": "0"}, 'mask is "0", expected a whole number from 0 on, or null'),
        ({"area": None}, "area is null, expected a whole number from 0 on"),
        ({"area": 1.0}, "area is 1.0, expected a whole number from 0 on"),
        ({"pixels": 0}, "pixels is 0, expected a whole number from 1 on"),
        ({"score": "high"}, 'score is "high", expected a number from 0 to 1, or null'),
        ({"status": "fine"}, 'status is "fine", expected one of ok, no_seg, broken, wrong_count, missing'),
        ({"groups": [30]}, r"groups is \[30\], expected an object"),
        ({"control": "swapped"}, 'control is "swapped", expected one of none, '),
        ({"intersection": -1}, "intersection is -1, expected a whole number from 0 on"),
        ({"intersection": 21}, "intersection 21, union 20 and area 10 cannot be in 100 pixels"),
        ({"union": 101}, "intersection 5, union 101 and area 10 cannot be in 100 pixels"),
        ({"area": 101}, "intersection 5, union 20 and area 101 cannot be in 100 pixels"),
        ({"iou": float("nan")}, r"\.iou is nan, no number"),
        ({"iou": float("inf")}, r"\.iou is inf, no number"),
    ],
)
def test_what_cannot_be_is_told_with_line_and_field(path: Path, fields: dict[str, Any], told: str) -> None:
    write(path, LINE, changed(**{"id": "r1", **fields}))
    with pytest.raises(UserError, match=f"^{path}, line 2: {told}.*; evaluate again with eval.py"):
        read_pairs(path)


def test_bounds_are_within_what_can_be(path: Path) -> None:
    write(
        path, changed(intersection=100, union=100, area=100, iou=1), changed(id="r1", intersection=0, union=0, area=0)
    )
    assert len(read_pairs(path)) == 2


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([LINE, '{"id": "r1", "tar'], ", line 2: not JSON .*ends in the middle"),
        (["[1]"], ", line 1: no object"),
        ([""], ", line 1: not JSON"),
        ([], ": holds no scores"),
        ([changed(control="blank-question")], ": holds no scores"),
        ([LINE, changed(target=1), LINE], ": 1 pairs stand there more than once, the first of record 'r0'"),
    ],
)
def test_what_is_no_file_of_scores_is_told(path: Path, lines: list[Any], told: str) -> None:
    write(path, *lines)
    with pytest.raises(UserError, match=f"^{path}{told}.*; evaluate again with eval.py"):
        read_pairs(path)


def test_a_file_that_is_not_there_is_told(path: Path) -> None:
    with pytest.raises(UserError, match=f"^{path}: no such file; evaluate again"):
        read_pairs(path)
