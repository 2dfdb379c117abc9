"""utils.inference.results: the names of files, and what a line says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from model.segmentation import Segmentation
from utils.inference.results import answer_record, free_name, json_line, read_answers, result_names, write_answer

ODD = Path(os.fsdecode(b"caf\xe9.jpg"))


def test_names_are_distinct_even_from_a_number_that_is_already_one(tmp_path: Path) -> None:
    taken: list[str] = []
    for name in ("x.jpg", "x-2.jpg", "b/x.png", "c/x.png", "y.jpg"):
        taken.append(free_name(Path(name).stem, tmp_path, set(taken)))
    assert taken == ["x", "x-2", "x-3", "x-4", "y"]


def test_a_line_describes_each_mask_and_all_together() -> None:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:6] = masks[1, 2:4, 2:4] = True
    answer = Segmentation(
        masks, np.array([0.9, 0.25], np.float32), np.zeros((2, 4), np.float32), "[SEG0]", 0.75, question="Which?"
    )
    found = answer_record(answer)
    assert (found["question"], found["text"]) == ("Which?", "[SEG0]")
    assert [one["polygons"] for one in found["masks"]] == [[[2, 1, 2, 3, 6, 3, 6, 1]], [[2, 2, 2, 4, 4, 4, 4, 2]]]
    assert (found["box"], found["area"], found["area_fraction"]) == ([2, 1, 4, 3], 10, 10 / 48)
    assert found["confidence"] == 0.75 and np.array_equal(coco.decode(found["rle"]), masks.any(axis=0))
    assert [one["box"] for one in found["masks"]] == [[2, 1, 4, 2], [2, 2, 2, 2]]
    assert [one["area"] for one in found["masks"]] == [8, 4]
    assert [one["confidence"] for one in found["masks"]] == pytest.approx([0.9, 0.25])
    json.dumps(found, allow_nan=False)


def test_a_line_without_a_mask_has_no_box() -> None:
    nothing = Segmentation(np.zeros((0, 6, 8), bool), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), "car", 0.0)
    found = answer_record(nothing)
    assert (found["masks"], found["box"], found["area"], found["confidence"]) == ([], None, 0, 0.0)


def test_a_name_that_is_not_utf8_is_written_as_one_that_is(tmp_path: Path) -> None:
    assert free_name(ODD.stem, tmp_path, set()) == r"caf\xe9"
    assert free_name(r"caf\xe9", tmp_path, {r"caf\xe9"}) == r"caf\xe9-2"


def test_files_are_named_in_the_line_and_stay_apart(tmp_path: Path) -> None:
    taken: set[str] = set()
    lines = [write_answer(tmp_path, "x", {"n": n}, {"mask": b"1", "geojson": b"{}"}, taken) for n in range(2)]
    assert lines[1] == {"n": 1, "mask": "x-2.mask.png", "geojson": "x-2.geojson"}
    assert list(read_answers(tmp_path)) == lines and result_names(lines) == {"x", "x-2"}
    assert (tmp_path / "x-2.geojson").read_bytes() == b"{}"


def test_a_line_is_json_whatever_the_terminal_shows() -> None:
    entry = {"question": "Wo ist die Straße?"}
    assert "Straße" in json_line(entry)
    for encoding in ("ascii", None):
        line = json_line(entry, encoding)
        assert line.isascii() and json.loads(line) == entry
