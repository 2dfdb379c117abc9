"""utils.evaluation.calibration."""

from __future__ import annotations

import pytest

from utils.evaluation.calibration import calibration
from utils.evaluation.metrics import MaskScore


def score(confidence: float | None, percent: int, matched: bool = True) -> MaskScore:
    return MaskScore(0, 0, percent, 100, 10, 1000, matched=matched, confidence=confidence)


def test_by_hand() -> None:
    found = calibration([score(0.92, 80), score(0.98, 60), score(1.0, 100), score(0.25, 5)])
    low, high = found["bins"]
    assert low == {"low": 0.2, "high": 0.3, "count": 1, "confidence": 0.25, "iou": pytest.approx(0.05)}
    assert (high["count"], high["confidence"], high["iou"]) == (3, pytest.approx(2.9 / 3), pytest.approx(0.8))
    assert found["ece"] == pytest.approx((0.2 + 0.5) / 4)


def test_only_matched_masks_with_a_confidence() -> None:
    assert calibration([score(None, 50), score(0.5, 50, matched=False)]) is None


def test_no_overlap_where_a_mask_is_missing() -> None:
    assert MaskScore(0, 0, 0, 0, 0, 9).iou == 1
    assert MaskScore(0, 0, 0, 0, 0, 9, matched=False).iou == 0
