"""utils.inference.results: the names of files, and what a line says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from model.segmenter import Segmentation
from utils.inference.results import answer_record, free_name, json_line

ODD = Path(os.fsdecode(b"caf\xe9.jpg"))


def test_names_are_distinct_even_from_a_number_that_is_already_one(tmp_path: Path) -> None:
    taken: list[str] = []
    for name in ("x.jpg", "x-2.jpg", "b/x.png", "c/x.png", "y.jpg"):
        taken.append(free_name(Path(name), tmp_path, set(taken)))
    assert taken == ["x", "x-2", "x-3", "x-4", "y"]


def test_a_line_describes_each_mask_and_all_together() -> None:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:6] = masks[1, 2:4, 2:4] = True
    answer = Segmentation(masks, np.array([0.9, 0.25], np.float32), np.zeros((2, 4), np.float32), "[SEG0]", 0.75)
    found = answer_record(Path("a.jpg"), "Which?", answer)
    assert (found["picture"], found["question"], found["text"]) == ("a.jpg", "Which?", "[SEG0]")
    assert (found["box"], found["area"], found["area_fraction"]) == ([2, 1, 4, 3], 10, 10 / 48)
    assert found["confidence"] == 0.75 and np.array_equal(coco.decode(found["rle"]), masks.any(axis=0))
    assert [one["box"] for one in found["masks"]] == [[2, 1, 4, 2], [2, 2, 2, 2]]
    assert [one["area"] for one in found["masks"]] == [8, 4]
    assert [one["confidence"] for one in found["masks"]] == pytest.approx([0.9, 0.25])
    json.dumps(found, allow_nan=False)


def test_a_line_without_a_mask_has_no_box() -> None:
    nothing = Segmentation(np.zeros((0, 6, 8), bool), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), "car", 0.0)
    found = answer_record(Path("a.jpg"), "Which?", nothing)
    assert (found["masks"], found["box"], found["area"], found["confidence"]) == ([], None, 0, 0.0)


def test_a_name_that_is_not_utf8_is_shown_in_a_line_that_is(tmp_path: Path) -> None:
    nothing = Segmentation(np.zeros((0, 4, 6), bool), np.zeros(0), np.zeros((0, 4)), "", 0.0)
    line = json_line(answer_record(ODD, "Which?", nothing))
    assert json.loads(line.encode().decode())["picture"] == r"caf\xe9.jpg"
    assert free_name(ODD, tmp_path, set()) == r"caf\xe9"
    assert free_name(Path(r"caf\xe9.png"), tmp_path, {r"caf\xe9"}) == r"caf\xe9-2"


def test_a_line_is_json_whatever_the_terminal_shows() -> None:
    entry = {"question": "Wo ist die Straße?"}
    assert "Straße" in json_line(entry)
    for encoding in ("ascii", None):
        line = json_line(entry, encoding)
        assert line.isascii() and json.loads(line) == entry
