"""How well a mask's confidence predicts its IoU."""

from __future__ import annotations

import math
from typing import Any

from utils.evaluation.metrics import MaskScore

BINS = 10


def calibration(scores: list[MaskScore]) -> dict[str, Any] | None:
    """Confidence against IoU over matched masks that have a confidence; None where there are none.

    Returns:
        "bins": of equal width, without empty ones, each {low, high, count, confidence, iou}, the last two means;
        "ece": the expected calibration error, the mean of |confidence - IoU| over bins, weighted by count.
    """
    bins: dict[int, list[MaskScore]] = {}
    for score in scores:
        if score.matched and score.confidence is not None:
            bins.setdefault(min(int(score.confidence * BINS), BINS - 1), []).append(score)
    if not bins:
        return None
    total = sum(map(len, bins.values()))
    rows = [_row(number, bins[number]) for number in sorted(bins)]
    return {"bins": rows, "ece": math.fsum(r["count"] * abs(r["confidence"] - r["iou"]) for r in rows) / total}


def _row(number: int, scores: list[MaskScore]) -> dict[str, float | int]:
    return {
        "low": number / BINS,
        "high": (number + 1) / BINS,
        "count": len(scores),
        "confidence": math.fsum(score.confidence for score in scores) / len(scores),
        "iou": math.fsum(score.iou for score in scores) / len(scores),
    }
