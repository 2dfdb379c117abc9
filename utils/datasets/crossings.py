"""Whether the outline of a polygon crosses itself: exact for points in general place, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK = 256  # edges that are compared with all others at a time
TOLERANCE = 1e-9  # of the polygon's extent squared: nearer to a line than rounding can tell is on it


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether an outline passes from one side of itself to the other, as that of a bow tie does.

    It may touch itself: points that stand twice, the way to a hole and back, spikes. Only what lies alike along a
    shared stretch and parts on the other side is not seen.

    Args:
        polygon: x, y, x, y, …, of 3 points or more.
    """
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    if len(points) < 4:
        return False
    points = points - points.min(axis=0)
    before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
    smallest = TOLERANCE * points.max() ** 2
    first, second = _near_pairs(points, after)

    def sides(edges: np.ndarray, of: np.ndarray) -> np.ndarray:
        """-1, 0, 1: on which side of each edge each point is."""
        begin = points[edges]
        along, to = after[edges] - begin, of - begin
        turn = along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0]
        return np.sign(turn) * (np.abs(turn) > smallest)

    begins, ends = sides(first, points[second]), sides(first, after[second])
    apart = np.flatnonzero(begins * ends < 0)
    here, there = first[apart], second[apart]
    if (sides(there, points[here]) * sides(there, after[here]) < 0).any():
        return True
    # An edge, and a point that lies on it between its ends.
    on = np.flatnonzero(begins == 0)
    edges, corners = np.concatenate([first[on], second]), np.concatenate([second[on], first])
    inside = ((points[corners] - points[edges]) * (points[corners] - after[edges])).sum(axis=1) < -smallest
    edges, corners = edges[inside], corners[inside]
    passes = sides(edges, before[corners]) * sides(edges, after[corners]) < 0
    if (passes & (sides(edges, points[corners]) == 0)).any():
        return True
    met_again = len(set(map(tuple, points.tolist()))) < len(points)
    return met_again and _crosses_in_a_point(points)


def _near_pairs(points: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges whose boxes touch, each pair once: int[P], int[P]; in blocks, so that memory stays small."""
    low, high = np.minimum(points, ends), np.maximum(points, ends)
    order = np.argsort(low[:, 0], kind="stable")
    (left, top), (right, bottom) = low[order].T.copy(), high[order].T.copy()
    first, second = [], []
    for start in range(0, len(order), BLOCK):
        block = slice(start, start + BLOCK)
        others = slice(start, np.searchsorted(left, right[block].max(), side="right"))  # the rest begin further right
        near = (left[others] <= right[block, None]) & (top[others] <= bottom[block, None])
        near &= (left[block, None] <= right[others]) & (top[block, None] <= bottom[others])
        i, j = np.nonzero(np.triu(near, k=1))
        first.append(order[i + start])
        second.append(order[j + start])
    return np.concatenate(first), np.concatenate(second)


def _crosses_in_a_point(points: np.ndarray) -> bool:
    """Whether the outline comes to one of its points again and crosses itself there."""
    _, place, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    for twice in np.flatnonzero(counts > 1):
        visits = np.flatnonzero(place == twice)
        here = points[visits[0]]
        ways = [(points[v - 1] - here, points[(v + 1) % len(points)] - here) for v in visits]
        angles = [[float(np.arctan2(way[1], way[0])) for way in pair] for pair in ways]
        for i, (start, end) in enumerate(angles):
            reach = (end - start) % (2 * np.pi)
            for other in angles[:i]:
                turns = [(angle - start) % (2 * np.pi) for angle in other]
                open_turns = [turn for turn in turns if min(turn, abs(turn - reach), 2 * np.pi - turn) > TOLERANCE]
                if len(open_turns) == 2 and (open_turns[0] < reach) != (open_turns[1] < reach):
                    return True
    return False
