"""utils.evaluation.matching: pairs by order and by overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pycocotools import mask as coco

from utils.evaluation.matching import match


def rle(*columns: int) -> dict:
    mask = np.zeros((4, 12), np.uint8, order="F")
    mask[:, list(columns)] = 1
    coded = coco.encode(mask)
    return {**coded, "counts": coded["counts"].decode()}


def test_by_order() -> None:
    masks = [rle(0), rle(1), rle(2)]
    assert match(masks, masks[:2], "order") == [(0, 0), (1, 1), (2, None)]
    assert match(masks[:1], masks[:2], "order") == [(0, 0), (None, 1)]


def test_by_overlap() -> None:
    assert match([rle(5), rle(0), rle(9)], [rle(0), rle(9)], "hungarian") == [(1, 0), (2, 1), (0, None)]
    assert match([rle(9)], [rle(0), rle(9)], "hungarian") == [(None, 0), (0, 1)]


def test_the_sum_counts_not_the_best_pair() -> None:
    # IoUs: 0-0 2/3, 0-1 2/4, 1-0 2/4, 1-1 0. Best pair first gives 2/3, the other way 1.
    predicted, targets = [rle(1, 2, 3), rle(0, 1)], [rle(0, 1, 2), rle(3, 2, 4)]
    assert match(predicted, targets, "hungarian") == [(1, 0), (0, 1)]


def test_best_of_all_assignments() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = ([rle(*random.choice(12, 4, replace=False)) for _ in range(4)] for _ in range(2))
        ious = coco.iou(a, b, [0] * 4)
        best = max(sum(ious[p, t] for t, p in enumerate(order)) for order in itertools.permutations(range(4)))
        assert sum(ious[p, t] for p, t in match(a, b, "hungarian")) == pytest.approx(best)


def test_nothing_and_unknown() -> None:
    assert match([], [], "hungarian") == []
    assert match([], [rle(0)], "hungarian") == [(None, 0)]
    with pytest.raises(ValueError, match="greedy"):
        match([], [], "greedy")
