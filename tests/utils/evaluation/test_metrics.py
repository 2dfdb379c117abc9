"""utils.evaluation.metrics: pixel counts, gIoU and cIoU, the groups they are broken down into."""

from __future__ import annotations

import functools
import operator
import random

import numpy as np
import pytest

from model.masks import IGNORE_LABEL
from utils.datasets.base import DatasetSpec, ScoringRules
from utils.datasets.drseg import SPEC
from utils.evaluation.metrics import MaskScore, breakdowns, mask_counts, summarise


def score(intersection: int, union: int, index: int = 0, target: int = 0, **known) -> MaskScore:
    return MaskScore(index, target, intersection, union, **{"area": 10, "pixels": 1000, **known})


def test_counts_by_hand() -> None:
    prediction = np.array([[1, 1, 0], [0, 1, 0]])
    target = np.array([[1, 0, 0], [1, 1, 0]], np.uint8)
    assert mask_counts(prediction, target) == (2, 4)
    assert mask_counts(prediction.astype(bool), target) == (2, 4)
    assert all(type(n) is int for n in mask_counts(prediction, target))  # NumPy's would not go into JSON


def test_ignored_pixels_count_on_neither_side() -> None:
    target = np.array([[1, 1, IGNORE_LABEL, IGNORE_LABEL, 0, 0]], np.uint8)
    assert mask_counts(np.array([[1, 0, 1, 0, 1, 0]]), target) == (1, 3)
    assert mask_counts(np.ones((1, 2)), np.full((1, 2), IGNORE_LABEL, np.uint8)) == (0, 0)


def test_counts_do_not_overflow() -> None:
    assert mask_counts(np.ones((300, 300), np.uint8), np.ones((300, 300), np.uint8)) == (90_000, 90_000)


def test_sizes_have_to_agree() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4\).*\(3, 4\)"):  # NumPy alone would broadcast
        mask_counts(np.ones((1, 4)), np.ones((3, 4), np.uint8))


def test_giou_is_a_mean_and_ciou_a_quotient_of_sums() -> None:
    found = summarise([score(1, 2), score(90, 100), score(0, 10)])
    assert found["count"] == 3
    assert found["giou"] == pytest.approx((1 / (2 + 1e-5) + 90 / (100 + 1e-5) + 0) / 3, abs=1e-15)
    assert found["ciou"] == 91 / 112


def test_an_empty_union_is_a_hit_that_ciou_does_not_see() -> None:
    assert summarise([score(0, 0), score(1, 4)]) == {
        "count": 2,
        "giou": pytest.approx((1 + 1 / (4 + 1e-5)) / 2, abs=1e-15),
        "ciou": 0.25,
    }
    assert summarise([score(0, 0)]) == {"count": 1, "giou": 1.0, "ciou": 1.0}
    assert summarise([]) == {"count": 0, "giou": 0.0, "ciou": 0.0}


def test_the_order_does_not_show_in_any_digit() -> None:
    generator = random.Random(0)
    scores = [score(generator.randrange(1, 90), generator.randrange(90, 10**6), index=i) for i in range(500)]
    first = summarise(scores)
    for _ in range(5):
        generator.shuffle(scores)
        assert summarise(scores) == first
    ious = [one.iou for one in scores]  # of which a plain sum shows it; Python's own is none from 3.12 on
    assert functools.reduce(operator.add, ious) != functools.reduce(operator.add, sorted(ious))


@pytest.mark.parametrize(
    ("area", "name"),
    [(1, "under 2 %"), (19, "under 2 %"), (20, "2 to 10 %"), (100, "2 to 10 %"), (101, "over 10 %")],
)
def test_size_classes(area: int, name: str) -> None:
    assert score(0, 1, area=area).size_class == name


def test_a_mask_without_a_target_is_in_no_size_class() -> None:
    scores = [score(1, 2), score(0, 9, target=-1, area=0, matched=False)]
    found = breakdowns(scores, SPEC)
    assert found["overall"]["count"] == 2 and found["by_target_size"] == {"under 2 %": summarise(scores[:1])}


def test_breakdowns_hold_what_is_known_in_a_fixed_order() -> None:
    scores = [
        score(1, 1, area=500, groups={"reasoning_type": "spatial", "altitude": 100}),
        score(0, 1, area=10, groups={"reasoning_type": "attribute", "altitude": 30}),
        score(1, 2, area=50, groups={"reasoning_type": "spatial", "altitude": 30}),
        score(1, 4, area=10),
    ]
    found = breakdowns(scores, SPEC)
    assert list(found) == ["overall", "by_target_size", "by_reasoning_type", "by_altitude"]
    assert found["overall"] == summarise(scores)
    assert found["by_reasoning_type"] == {"attribute": summarise(scores[1:2]), "spatial": summarise(scores[::2])}
    assert found["by_altitude"] == {"30": summarise(scores[1:3]), "100": summarise(scores[:1])}
    assert list(found["by_reasoning_type"]) == ["attribute", "spatial"]
    assert list(found["by_altitude"]) == ["30", "100"]  # by number, not by text
    assert list(found["by_target_size"]) == ["under 2 %", "2 to 10 %", "over 10 %"]
    assert [one["count"] for one in found["by_target_size"].values()] == [2, 1, 1]
    assert breakdowns(scores[3:], SPEC)["by_altitude"] == {}


def test_a_data_set_has_its_own_groups_and_metrics() -> None:
    spec = DatasetSpec(
        "roofs", ("all",), "", "", list, {"clean": ScoringRules(("ciou",))}, group_titles={"region": "region of Spain"}
    )
    scores = [score(1, 2, groups={"region": "south", "altitude": 30}), score(1, 4, groups={"region": "north"})]
    found = breakdowns(scores, spec)
    assert list(found) == ["overall", "by_target_size", "by_region"]
    assert found["overall"] == {"count": 2, "ciou": 2 / 6}
    assert found["by_region"] == {"north": {"count": 1, "ciou": 0.25}, "south": {"count": 1, "ciou": 0.5}}
    assert list(found["by_region"]) == ["north", "south"]
