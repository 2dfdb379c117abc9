"""gIoU and cIoU from integer pixel counts, overall and broken down; exact on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.masks import IGNORE_LABEL
from utils.datasets.base import DatasetSpec

UNION_SMOOTHING = 1e-5  # published: I / (U + 1e-5)
TARGET_SIZE = "target_size"  # the name of that breakdown
SIZE_CLASSES = ("under 2 %", "2 to 10 %", "over 10 %")  # of the frame


@dataclass(frozen=True)
class MaskScore:
    """The overlap of one predicted mask with one target.

    Args:
        index: of the sample.
        target: which of the sample's targets.
        intersection: pixels in both.
        union: pixels in either.
        area: pixels of the target.
        pixels: of the frame.
        groups: values to break scores down by (`Sample.groups`).
        picture: which picture; the unit of resampling.
        matched: False for a prediction without a target or a target without a prediction.
        confidence: of the prediction, from 0 to 1.
    """

    index: int
    target: int
    intersection: int
    union: int
    area: int
    pixels: int
    groups: Mapping[str, Any] = field(default_factory=dict)
    picture: str = ""
    matched: bool = True
    confidence: float | None = None

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both masks are empty, 0 where there are not two masks."""
        if not self.matched:
            return 0.0
        return self.intersection / (self.union + UNION_SMOOTHING) if self.union else 1.0

    @property
    def size_class(self) -> str | None:
        """The target's share of the frame, as one of SIZE_CLASSES; None where there is no target."""
        if self.target < 0:
            return None
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


def giou(scores: list[MaskScore]) -> float:
    """The mean IoU over masks; summed exactly, so that the result does not depend on their order."""
    return math.fsum(score.iou for score in scores) / len(scores) if scores else 0.0


def ciou(scores: list[MaskScore]) -> float:
    """The sum of intersections over the sum of unions, both in whole pixels; 1 where all unions are empty."""
    union = sum(score.union for score in scores)
    return (sum(score.intersection for score in scores) / union if union else 1.0) if scores else 0.0


@dataclass(frozen=True)
class Metric:
    """A metric over a list of masks, and its title in tables."""

    title: str
    compute: Callable[[list[MaskScore]], float]


METRICS = {"giou": Metric("gIoU", giou), "ciou": Metric("cIoU", ciou)}  # a DatasetSpec lists those it is scored by


Summary = Callable[[list["MaskScore"], Iterable[str]], dict[str, Any]]


def summarise(scores: Iterable[MaskScore], metrics: Iterable[str] = tuple(METRICS)) -> dict[str, float | int]:
    """`count` and the metrics that are named, by name; 0 without scores.

    Pixels are summed as integers and IoUs exactly, so the result does not depend on the order of the scores or on
    the number of processes.
    """
    scores = list(scores)
    return {"count": len(scores), **{name: METRICS[name].compute(scores) for name in metrics}}


def breakdowns(scores: list[MaskScore], spec: DatasetSpec, summary: Summary = summarise) -> dict[str, dict]:
    """`overall`, `by_target_size`, and `by_NAME` for each group of the data set; `summary` of the scores of each."""

    def by(key: Callable[[MaskScore], Any], order: Callable[[Any], Any] | None = None) -> dict[str, dict]:
        return {
            value: summary(of_value, spec.metrics) for value, of_value in grouped_scores(scores, key, order).items()
        }

    return {
        "overall": summary(scores, spec.metrics),
        f"by_{TARGET_SIZE}": by(lambda score: score.size_class, SIZE_CLASSES.index),
        **{f"by_{name}": by(lambda score, name=name: score.groups.get(name)) for name in spec.group_titles},
    }


def grouped_scores(
    scores: list[MaskScore], key: Callable[[MaskScore], Any], order: Callable[[Any], Any] | None = None
) -> dict[str, list[MaskScore]]:
    """The scores by each value of `key` that occurs, as text; those for which it is None belong to no group."""
    groups: dict[Any, list[MaskScore]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return {str(value): groups[value] for value in sorted(groups.keys() - {None}, key=order)}
