"""utils.evaluation.intervals."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.coverage_of_intervals import coverage
from utils.evaluation.intervals import intervals
from utils.evaluation.metrics import MaskScore


def score(intersection: int, union: int, picture: str) -> MaskScore:
    return MaskScore(0, 0, intersection, union, 10, 1000, picture=picture)


def test_by_hand() -> None:
    # Of two pictures one draws both, or one of them twice with a quarter's chance: the ends are the two themselves.
    found = intervals([score(0, 100, "a"), score(0, 100, "a"), score(150, 300, "b")], ["giou", "ciou"])
    assert found == {"giou": pytest.approx([0, 0.5]), "ciou": pytest.approx([0, 0.5])}


def test_fewer_than_two_pictures() -> None:
    assert intervals([score(1, 2, "a"), score(2, 2, "a")], ["giou"]) == {"giou": None}
    assert intervals([], ["ciou"]) == {"ciou": None}


def test_order_does_not_matter() -> None:
    draw = random.Random(0)
    scores = [score(draw.randrange(100), 100 + draw.randrange(9), str(i % 40)) for i in range(120)]
    found = intervals(scores, ["giou", "ciou"])
    draw.shuffle(scores)
    assert intervals(scores, ["giou", "ciou"]) == found != intervals(scores, ["giou", "ciou"], seed=1)


def test_pictures_cover_and_records_do_not() -> None:
    by_picture, by_record = coverage(pictures=100, draws=300, resamples=300)
    assert np.all((by_picture > 0.90) & (by_picture < 0.98))
    assert np.all(by_record < 0.90)
