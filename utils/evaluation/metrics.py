"""Metrics from integer pixel counts, overall and broken down; exact on any number of processes.

Each is a sum over a sum, such as IoUs over their number, so that pictures can be resampled by their sums alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.masks import IGNORE_LABEL
from utils.datasets.base import ScoringRules

UNION_SMOOTHING = 1e-5  # published: I / (U + 1e-5)
TARGET_SIZE = "target_size"  # the name of that breakdown
SIZE_CLASSES = ("under 2 %", "2 to 10 %", "over 10 %")  # of the frame
TARGET_COUNT = "target_count"  # the breakdown by how many targets a question has
TARGET_COUNTS = ("0", "1", "2", "3", "4 or more")


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
        predicted: whether there is a predicted mask, be it empty.
        targets: of the question.
        empty_iou: IoU where both masks are empty (`ScoringRules.empty_iou`).
        record: id of the record that asks about it, several questions perhaps.
        for_precision: whether Pr counts it: a target, or by some rules a question without one.
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
    predicted: bool = True
    targets: int = 1
    empty_iou: float = 1.0
    record: str = ""
    for_precision: bool = True

    @property
    def iou(self) -> float:
        """Intersection over union; `empty_iou` where both masks are empty, 0 where there are not two masks."""
        if not self.matched:
            return 0.0
        return self.intersection / (self.union + UNION_SMOOTHING) if self.union else self.empty_iou

    @property
    def marked(self) -> int:
        """Pixels of the predicted mask."""
        return self.union - self.area + self.intersection

    @property
    def count_class(self) -> str:
        """The number of targets of its question, as one of TARGET_COUNTS."""
        return TARGET_COUNTS[min(self.targets, len(TARGET_COUNTS) - 1)]

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


Terms = list[tuple[float, float]]  # numerators and denominators, whose sums a metric divides


def _iou_terms(scores: list[MaskScore]) -> Terms:
    return [(score.iou, 1) for score in scores]


def _pixel_terms(scores: list[MaskScore]) -> Terms:
    return [(score.intersection, score.union) for score in scores]


def _picture_terms(scores: list[MaskScore]) -> Terms:
    """IoUs of a record, which is a picture with its questions, over the larger of its numbers of masks and targets
    (PixelLM's evaluation of MUSE)."""
    records: dict[tuple[str, str], list[MaskScore]] = {}
    for score in scores:
        records.setdefault((score.picture, score.record), []).append(score)
    return [
        (
            math.fsum(score.iou for score in of_record),
            max(1, sum(score.predicted for score in of_record), sum(score.target >= 0 for score in of_record)),
        )
        for of_record in records.values()
    ]


def _no_target_terms(scores: list[MaskScore]) -> Terms:
    """Questions without a target: whether nothing is marked."""
    return [(not score.marked, 1) for score in scores if not score.targets]


def _target_terms(scores: list[MaskScore]) -> Terms:
    """Questions with targets: whether anything is marked."""
    marked: dict[int, bool] = {}
    for score in scores:
        if score.targets:
            marked[score.index] = marked.get(score.index, False) or score.marked > 0
    return [(found, 1) for found in marked.values()]


def _precision_terms(percent: int, strict: bool) -> Callable[[list[MaskScore]], Terms]:
    """Targets: whether their IoU reaches a threshold, compared in whole pixels."""

    def reaches(score: MaskScore) -> bool:
        if not score.union or not score.matched:
            return score.iou * 100 > percent
        exact, needed = 100 * score.intersection, percent * score.union
        return exact > needed if strict else exact >= needed

    return lambda scores: [(reaches(score), 1) for score in scores if score.for_precision]


def _two_class_terms(percent: int) -> Callable[[list[MaskScore]], Terms]:
    """Targets: whether the mean of foreground's and background's IoU is above a threshold (PixDLM's `eval.py`)."""

    def correct(score: MaskScore) -> bool:
        rest = score.pixels - score.intersection
        background = (score.pixels - score.union) / rest if rest else 1.0
        return (score.iou + background) / 2 * 100 > percent

    return lambda scores: [(correct(score), 1) for score in scores if score.target >= 0]


def _sums(terms: Terms) -> tuple[float, float]:
    return math.fsum(above for above, _ in terms), math.fsum(below for _, below in terms)


@dataclass(frozen=True)
class Metric:
    """A metric over a list of scores.

    Args:
        title: in tables.
        terms: what is summed.
        empty: its value where there are terms but the denominators add up to 0.
    """

    title: str
    terms: Callable[[list[MaskScore]], Terms]
    empty: float = 1.0

    def sums(self, scores: list[MaskScore]) -> tuple[float, float]:
        """The sum of numerators and that of denominators; exact, so that they do not depend on the order."""
        return _sums(self.terms(scores))

    def compute(self, scores: list[MaskScore]) -> float | None:
        """Its value; None where it counts none of the scores."""
        terms = self.terms(scores)
        if not terms:
            return None
        above, below = _sums(terms)
        return above / below if below else self.empty


PERCENTS = (50, 60, 70, 80, 90)
METRICS = {  # a `ScoringRules` lists those that a data set is scored by
    "giou": Metric("gIoU", _iou_terms),  # the mean IoU over masks
    "ciou": Metric("cIoU", _pixel_terms),  # the sum of intersections over that of unions; 1 where all are empty
    "giou_by_picture": Metric("gIoU/pic", _picture_terms),
    "n_acc": Metric("N-acc", _no_target_terms),
    "t_acc": Metric("T-acc", _target_terms),
    **{f"pr{percent}": Metric(f"Pr@{percent}", _precision_terms(percent, False)) for percent in PERCENTS},
    **{f"pr{percent}_strict": Metric(f"Pr>{percent}", _precision_terms(percent, True)) for percent in PERCENTS},
    **{f"correct{percent}": Metric(f"2-cl>{percent}", _two_class_terms(percent)) for percent in (25, 50)},
}
NO_TARGET_METRICS = ("n_acc", "t_acc")  # told where a question without a target is among those that are scored


Summary = Callable[[list["MaskScore"], Iterable[str]], dict[str, Any]]


def metric_names(summary: Mapping[str, Any]) -> list[str]:
    """The metrics of a summary, in its order."""
    return [name for name in summary if name in METRICS]


def summarise(scores: Iterable[MaskScore], metrics: Iterable[str] = ("giou", "ciou")) -> dict[str, float | int | None]:
    """`count` and the metrics that are named, by name; None where a metric counts none of the scores.

    Pixels are summed as integers and IoUs exactly, so the result does not depend on the order of the scores or on
    the number of processes.
    """
    scores = list(scores)
    return {"count": len(scores), **{name: METRICS[name].compute(scores) for name in metrics}}


def breakdowns(
    scores: list[MaskScore], rules: ScoringRules, groups: Iterable[str], summary: Summary = summarise
) -> dict[str, dict]:
    """`overall`, `by_target_size`, `by_target_count` where questions have other numbers of targets than one, and
    `by_NAME` for each of the groups; `summary` of the scores of each."""
    nothing_asked = any(not score.targets for score in scores)
    metrics = [name for name in rules.metrics if nothing_asked or name not in NO_TARGET_METRICS]

    def by(key: Callable[[MaskScore], Any], order: Callable[[Any], Any] | None = None) -> dict[str, dict]:
        return {value: summary(of_value, metrics) for value, of_value in grouped_scores(scores, key, order).items()}

    found = {
        "overall": summary(scores, metrics),
        f"by_{TARGET_SIZE}": by(lambda score: score.size_class, SIZE_CLASSES.index),
    }
    if any(score.targets != 1 for score in scores):
        found[f"by_{TARGET_COUNT}"] = by(lambda score: score.count_class, TARGET_COUNTS.index)
    return found | {f"by_{name}": by(lambda score, name=name: score.groups.get(name)) for name in groups}


def grouped_scores(
    scores: list[MaskScore], key: Callable[[MaskScore], Any], order: Callable[[Any], Any] | None = None
) -> dict[str, list[MaskScore]]:
    """The scores by each value of `key` that occurs, as text; those for which it is None belong to no group."""
    groups: dict[Any, list[MaskScore]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return {str(value): groups[value] for value in sorted(groups.keys() - {None}, key=order)}
