"""How often 95 % intervals hold the true value, by pictures and by records.

.venv/bin/python tests/coverage_of_intervals.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from utils.evaluation.intervals import percentile_interval, ratio, resampled_sums  # noqa: E402

RECORDS = 4  # a picture
METRICS = ("giou", "ciou")


def draw(random: np.random.Generator, pictures: int) -> np.ndarray:
    """float64[4, pictures, RECORDS]: IoU, 1, intersection, union; bimodal, many zeros, alike within a picture."""
    hard = random.random((pictures, 1)) < 0.4
    miss = random.random((pictures, RECORDS)) < np.where(hard, 0.8, 0.15)
    iou = np.where(miss, 0.0, random.beta(8, 2, (pictures, RECORDS)))
    union = np.exp(random.normal(8, 0.7, (pictures, 1)) + random.normal(0, 0.5, (pictures, RECORDS)))
    return np.stack([iou, np.ones_like(iou), iou * union, union])


def coverage(pictures: int, draws: int, resamples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The share of intervals that hold the truth, float64[2] (gIoU, cIoU): resampled by pictures, by records."""
    random = np.random.default_rng(seed)
    truth = 0.8 * (1 - 0.4 * 0.8 - 0.6 * 0.15)  # of cIoU too, as the union is independent of the IoU
    held = np.zeros((2, len(METRICS)))
    for number in range(draws):
        data = draw(random, pictures)
        for row, table in enumerate((data.sum(axis=2), data.reshape(4, -1))):
            sums = resampled_sums(table, resamples, number)
            for column, metric in enumerate(METRICS):
                low, high = percentile_interval(ratio(sums[2 * column : 2 * column + 2], metric))
                held[row, column] += low <= truth <= high
    return held[0] / draws, held[1] / draws


if __name__ == "__main__":
    for count in (100, 300):
        print(count, "pictures: by pictures, by records (gIoU, cIoU)", *coverage(count, 1000, 1000))
