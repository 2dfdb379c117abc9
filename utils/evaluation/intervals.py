"""Bootstrap intervals of gIoU and cIoU; whole pictures are resampled, as a picture's masks are correlated."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from utils.evaluation.metrics import MaskScore

LEVEL = 0.95
CHUNK = 250  # resamples held in memory at a time


def intervals(
    scores: list[MaskScore], metrics: Iterable[str], resamples: int = 2000, seed: int = 0
) -> dict[str, list[float] | None]:
    """Percentile intervals at 95 %, [low, high] by metric; None with fewer than two pictures.

    The result does not depend on the order of the scores.

    Args:
        metrics: of "giou" and "ciou".
    """
    pictures: dict[str, list[MaskScore]] = {}
    for score in scores:
        pictures.setdefault(score.picture, []).append(score)
    if len(pictures) < 2:
        return dict.fromkeys(metrics)
    table = np.array([picture_sums(pictures[name]) for name in sorted(pictures)]).T
    drawn = resampled_sums(table, resamples, seed)
    return {name: percentile_interval(metric_of_sums(drawn, name)) for name in metrics}


def picture_sums(scores: list[MaskScore]) -> tuple[float, float, float, float]:
    """The sum of IoUs, the number of masks, and the sums of intersections and of unions."""
    return (
        math.fsum(score.iou for score in scores),
        len(scores),
        sum(score.intersection for score in scores),
        sum(score.union for score in scores),
    )


def resampled_sums(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums over pictures drawn with replacement.

    Summed without BLAS, whose last bit depends on the number of threads.

    Args:
        table: float64[S, P], S sums for each of P pictures.

    Returns:
        float64[S, resamples].
    """
    random, count = np.random.default_rng(seed), table.shape[1]
    chunks = []
    for start in range(0, resamples, CHUNK):
        drawn = random.integers(count, size=(min(CHUNK, resamples - start), count))
        chunks.append(np.stack([row[drawn].sum(axis=1) for row in table]))
    return np.concatenate(chunks, axis=1)


def metric_of_sums(sums: np.ndarray, metric: str) -> np.ndarray:
    """A metric from `picture_sums`, added up: float64[4, ...] to float64[...]; cIoU is 1 where unions are empty."""
    above, below = {"giou": (sums[0], sums[1]), "ciou": (sums[2], sums[3])}[metric]
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)


def percentile_interval(values: np.ndarray) -> list[float]:
    """The middle 95 % of float64[N]."""
    return [float(end) for end in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
