"""Outlines that cross themselves, that only touch themselves, and neither."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from utils.datasets.crossings import crosses_itself

STAR = [v for k in range(5) for v in (math.sin(4 * math.pi * k / 5), math.cos(4 * math.pi * k / 5))]
HOLE = [0, 0, 40, 0, 40, 40, 0, 40, 0, 0]  # comes back to where a bridge leads to the hole


@pytest.mark.parametrize(
    "polygon",
    [
        [10, 10, 30, 30, 30, 10, 10, 30],  # a bow tie
        [10, 10, 30, 30, 30, 12, 10, 30],
        [10, 10, 20, 20, 30, 30, 30, 10, 20, 20, 10, 30],  # that has its middle for a point, twice
        STAR,
        [10, 10, 40, 10, 40, 20, 25, 5, 10, 20],
        [0, 0, 10, 0, 10, 10, 5, 10, 5, -5, 0, -5],
        [0, 10, 20, 10, 20, 20, 10, 10, 10, 0, 0, 0],  # through a point on an edge
    ],
)
def test_crossing(polygon: list[float]) -> None:
    assert crosses_itself(polygon) and crosses_itself([*polygon[2:], *polygon[:2], *polygon[2:4]])
    assert crosses_itself([v * 1000 + 0.1 for v in polygon])
    assert crosses_itself(np.reshape(polygon, (-1, 2))[::-1].ravel().tolist())


@pytest.mark.parametrize(
    "polygon",
    [
        [10, 10, 30, 10, 30, 30],
        [10, 10, 30, 10, 30, 30, 10, 30],
        [10, 10, 10, 10, 30, 10, 30, 30, 10, 30, 10, 10],  # points that stand twice
        [*HOLE, 10, 10, 10, 30, 30, 30, 30, 10, 10, 10],
        [*HOLE, 10, 10, 30, 10, 30, 30, 10, 30, 10, 10],
        [10, 10, 40, 10, 40, 20, 25, 10, 10, 20],  # a point on an edge, and back
        [0, 0, 10, 0, 5, 0, 5, 8, 0, 8],  # a spike
        [0, 0, 10, 0, 20, 0],
        [5, 5, 5, 5, 5, 5],
        [0, 0, 10, 0, 10, 10, 4, 4, 6, 6, 0, 10][:8],
    ],
)
def test_not_crossing(polygon: list[float]) -> None:
    assert not crosses_itself(polygon)
    assert not crosses_itself([v * 0.1 + 1000 for v in polygon])


def test_random_outlines_are_judged_as_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    found = [(polygon, crosses_itself(polygon)) for polygon in (rng.random(2 * rng.integers(3, 8)) for _ in range(500))]
    assert all(crosses == pair_by_pair(polygon) for polygon, crosses in found)
    assert 100 < sum(crosses for _, crosses in found) < 400


def pair_by_pair(polygon: np.ndarray) -> bool:
    points = polygon.reshape(-1, 2)
    edges = list(zip(points, np.roll(points, -1, axis=0), strict=True))

    def side(edge: tuple, point: np.ndarray) -> float:
        (ax, ay), (bx, by) = edge
        return np.sign((bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax))

    return any(
        side(one, other[0]) * side(one, other[1]) < 0 and side(other, one[0]) * side(other, one[1]) < 0
        for i, one in enumerate(edges)
        for other in edges[:i]
    )


def test_fine_outlines_take_no_time() -> None:
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    radius = 500 + 200 * np.sin(7 * angle)
    start = time.process_time()
    assert not crosses_itself(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel().tolist())
    assert time.process_time() - start < 1
