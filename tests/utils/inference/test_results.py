"""utils.inference.results: the names of files, and what a line says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from model.segmenter import Segmentation
from utils.inference.results import answer_record, distinct_names


def test_names_are_distinct_even_from_a_number_that_is_already_one() -> None:
    paths = [Path(name) for name in ("x.jpg", "x-2.jpg", "b/x.png", "c/x.png", "y.jpg")]
    assert distinct_names(paths) == ["x", "x-2", "x-3", "x-4", "y"]


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
