"""gIoU and cIoU from integer pixel counts, overall and broken down; exact on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

IGNORE_LABEL = 255  # a pixel of the ground truth that is not counted
UNION_SMOOTHING = 1e-5  # published: I / (U + 1e-5)
SIZE_CLASSES = ("under 2 %", "2 to 10 %", "over 10 %")  # of the frame


@dataclass(frozen=True)
class MaskScore:
    """How one predicted mask meets one target.

    Args:
        index: of the sample.
        target: which of the sample's targets.
        intersection: pixels in both.
        union: pixels in either.
        area: pixels of the target.
        pixels: of the frame.
        reasoning_type: of the question, or None.
        altitude: in metres, or None.
    """

    index: int
    target: int
    intersection: int
    union: int
    area: int
    pixels: int
    reasoning_type: str | None = None
    altitude: int | None = None

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both masks are empty."""
        return self.intersection / (self.union + UNION_SMOOTHING) if self.union else 1.0

    @property
    def size_class(self) -> str:
        """The target's share of the frame, as one of SIZE_CLASSES."""
        share = self.area / self.pixels
        small, large = 0.02, 0.10
        return SIZE_CLASSES[0 if share < small else 1 if share <= large else 2]


def mask_counts(prediction: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """Intersection and union in pixels.

    Args:
        prediction: bool or uint8[H, W], foreground where not zero.
        target: uint8[H, W], foreground 1; pixels of IGNORE_LABEL count on neither side.

    Raises:
        ValueError: the two have different sizes.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"a prediction of {prediction.shape} does not lie on a target of {target.shape}")
    counted = target != IGNORE_LABEL
    foreground = (prediction != 0) & counted
    truth = (target == 1) & counted
    return int(np.count_nonzero(foreground & truth)), int(np.count_nonzero(foreground | truth))


def summarise(scores: Iterable[MaskScore]) -> dict[str, float | int]:
    """`count`, `giou` (mean over masks) and `ciou` (sum of intersections over sum of unions).

    Pixels are summed as integers and IoUs by an exactly rounded sum, so neither the order of the
    scores nor who computed them shows in the last digit.
    """
    scores = list(scores)
    if not scores:
        return {"count": 0, "giou": 0.0, "ciou": 0.0}
    union = sum(score.union for score in scores)
    return {
        "count": len(scores),
        "giou": math.fsum(score.iou for score in scores) / len(scores),
        "ciou": sum(score.intersection for score in scores) / union if union else 1.0,
    }


def breakdowns(scores: list[MaskScore]) -> dict[str, dict]:
    """`overall`, and by reasoning type, target size and altitude what is known of them."""
    return {
        "overall": summarise(scores),
        "by_reasoning_type": _by(scores, lambda score: score.reasoning_type),
        "by_target_size": _by(scores, lambda score: score.size_class, SIZE_CLASSES.index),
        "by_altitude": _by(scores, lambda score: score.altitude),
    }


def _by(
    scores: list[MaskScore], key: Callable[[MaskScore], Any], order: Callable[[Any], Any] | None = None
) -> dict[str, dict]:
    """A summary for each value of `key` that occurs; scores for which it is None belong to no group."""
    groups: dict[Any, list[MaskScore]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return {str(value): summarise(groups[value]) for value in sorted(groups.keys() - {None}, key=order)}
