"""model.masks: confidence, run lengths, boxes, polygons, and masks painted over a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from model.masks import PREDICTED, confidence, encode_mask, mask_box, paint_mask, polygons_rle

FRAME = np.full((90, 120, 3), 100, np.uint8)


def mask_of(rows: slice, columns: slice, shape: tuple[int, int] = FRAME.shape[:2]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[rows, columns] = 1
    return mask


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """bool[H, W]: near the pure colour, as outlines are."""
    return (np.abs(picture.astype(int) - colour) < 30).all(axis=-1)


def test_confidence_is_the_foregrounds_mean_probability() -> None:
    logits = torch.tensor([[2.0, -5.0], [1.0, 0.0]])
    expected = (1 / (1 + np.exp(-2)) + 1 / (1 + np.exp(-1))) / 2
    assert confidence(logits) == pytest.approx(expected, abs=1e-6)
    assert confidence(-logits.abs()) == 0.0


def test_run_lengths_are_json_and_come_back() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (7, 5)).astype(bool)
    rle = encode_mask(mask)
    assert rle["size"] == [7, 5] and isinstance(rle["counts"], str)
    assert np.array_equal(coco.decode(rle), mask)


def test_paint_tints_inside_outlines_the_border_and_leaves_the_rest() -> None:
    mask = mask_of(slice(20, 60), slice(30, 90))
    mask[35:45, 50:70] = 0  # a hole
    before = FRAME.copy()
    painted = paint_mask(FRAME, mask, PREDICTED)
    assert (FRAME == before).all()
    outline = coloured(painted, PREDICTED)
    assert outline[20, 30:90].all() and outline[34, 50:70].all()  # around the hole as well
    assert (painted[27, 60] == [int(0.55 * 100 + 0.45 * c) for c in PREDICTED]).all()
    assert (painted[:18] == 100).all() and (painted[38:42, 55:65] == 100).all()


def test_a_box_is_left_top_width_and_height_and_none_where_nothing_is() -> None:
    assert mask_box(encode_mask(mask_of(slice(20, 60), slice(30, 90)))) == [30, 20, 60, 40]
    assert mask_box(encode_mask(mask_of(slice(0, 0), slice(0, 0)))) is None


def test_polygons_are_united_scaled_and_cut_at_the_frame() -> None:
    square, other = (10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0), (20.0, 10.0, 50.0, 10.0, 50.0, 20.0, 20.0, 20.0)
    mask = coco.decode(polygons_rle((square, other), (40, 40), (80, 120)))
    expected = np.zeros((80, 120), np.uint8)
    expected[20:40, 30:120] = 1  # twice as high, three times as wide; the second overhangs
    assert np.array_equal(mask, expected)
