"""Bootstrap intervals of metrics; whole pictures are resampled, as a picture's masks are correlated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from utils.evaluation.metrics import METRICS, MaskScore

LEVEL = 0.95
CHUNK = 250  # resamples held in memory at a time


def intervals(
    scores: list[MaskScore], metrics: Iterable[str], resamples: int = 2000, seed: int = 0
) -> dict[str, list[float] | None]:
    """Percentile intervals at 95 %, [low, high] by metric; None with fewer than two pictures.

    The result does not depend on the order of the scores.

    Args:
        metrics: names of METRICS.
    """
    pictures = by_picture(scores)
    if len(pictures) < 2:
        return dict.fromkeys(metrics)
    names = list(metrics)
    table = np.concatenate([sums_by_picture(pictures, sorted(pictures), name) for name in names])
    drawn = resampled_sums(table, resamples, seed)
    return {name: percentile_interval(ratio(drawn[2 * i : 2 * i + 2], name)) for i, name in enumerate(names)}


def by_picture(scores: Iterable[MaskScore]) -> dict[str, list[MaskScore]]:
    """The scores of each picture."""
    found: dict[str, list[MaskScore]] = {}
    for score in scores:
        found.setdefault(score.picture, []).append(score)
    return found


def sums_by_picture(pictures: Mapping[str, list[MaskScore]], order: Sequence[str], metric: str) -> np.ndarray:
    """float64[2, P]: a metric's numerator and denominator for each picture; 0 and 0 for one without scores."""
    return np.array([METRICS[metric].sums(pictures.get(name, [])) for name in order], np.float64).T


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


def ratio(sums: np.ndarray, metric: str) -> np.ndarray:
    """A metric from its sums: float64[2, ...] to float64[...]."""
    above, below = sums
    return np.divide(above, below, out=np.full_like(above, METRICS[metric].empty), where=below > 0)


def percentile_interval(values: np.ndarray) -> list[float]:
    """The middle 95 % of float64[N]."""
    return [float(end) for end in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
