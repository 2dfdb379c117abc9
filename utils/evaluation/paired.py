"""The difference between two evaluations of the same pictures: its interval and its p-value."""

from __future__ import annotations

import numpy as np

from utils.evaluation.intervals import percentile_interval, ratio, resampled_sums

CHUNK = 250  # permutations held in memory at a time
ROUNDING = 1e-12  # differences this close count as equal


def difference(
    a: np.ndarray, b: np.ndarray, metric: str, resamples: int = 2000, permutations: int = 10_000, seed: int = 0
) -> dict[str, float | list[float] | None]:
    """B - A, with a paired bootstrap over pictures and a two-sided test that exchanges A and B by picture.

    Args:
        a: float64[2, P], `intervals.sums_by_picture` of the metric.
        b: likewise, of the same pictures.
        metric: its name.

    Returns:
        "a", "b", "difference", "interval" and "p"; the last two are None with fewer than two pictures.
    """
    first, second = (float(ratio(table.sum(axis=1), metric)) for table in (a, b))
    found = {"a": first, "b": second, "difference": second - first, "interval": None, "p": None}
    if a.shape[1] < 2:
        return found
    drawn = resampled_sums(np.concatenate([a, b]), resamples, seed)
    changes = ratio(drawn[2:], metric) - ratio(drawn[:2], metric)
    p = permutation_p(a, b, metric, permutations, seed)
    return {**found, "interval": percentile_interval(changes), "p": p}


def permutation_p(a: np.ndarray, b: np.ndarray, metric: str, permutations: int, seed: int) -> float:
    """(1 + k) / (1 + permutations), where k permutations differ by at least as much as A and B do."""
    random, whole_a, whole_b = np.random.default_rng(seed), a.sum(axis=1)[:, None], b.sum(axis=1)[:, None]
    observed = abs((ratio(whole_b, metric) - ratio(whole_a, metric)).item())
    extreme = 0
    for start in range(0, permutations, CHUNK):
        exchanged = random.integers(2, size=(min(CHUNK, permutations - start), a.shape[1])).astype(np.float64)
        moved = np.einsum("rp,sp->sr", exchanged, b - a)  # not by BLAS, see `resampled_sums`
        changes = ratio(whole_b - moved, metric) - ratio(whole_a + moved, metric)
        extreme += int(np.count_nonzero(np.abs(changes) >= observed - ROUNDING))
    return (1 + extreme) / (1 + permutations)
