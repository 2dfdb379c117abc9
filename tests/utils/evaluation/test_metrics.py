"""utils.evaluation.metrics: pixel counts, gIoU and cIoU, the groups they are broken down into."""

from __future__ import annotations

import functools
import operator
import random
from dataclasses import replace

import numpy as np
import pytest

from model.masks import IGNORE_LABEL
from utils.datasets.base import DatasetSpec, ScoringRules
from utils.datasets.drseg import SPEC
from utils.evaluation.metrics import METRICS, MaskScore, breakdowns, mask_counts, summarise


def score(intersection: int, union: int, index: int = 0, target: int = 0, **known) -> MaskScore:
    given = {"area": 10, "pixels": 1000, "for_precision": target >= 0, **known}
    return MaskScore(index, target, intersection, union, **given)


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
    assert summarise([]) == {"count": 0, "giou": None, "ciou": None}


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
    found = breakdowns(scores, SPEC.scoring(), SPEC.group_titles)
    assert found["overall"]["count"] == 2 and found["by_target_size"] == {"under 2 %": summarise(scores[:1])}


def test_breakdowns_hold_what_is_known_in_a_fixed_order() -> None:
    scores = [
        score(1, 1, area=500, groups={"reasoning_type": "spatial", "altitude": 100}),
        score(0, 1, area=10, groups={"reasoning_type": "attribute", "altitude": 30}),
        score(1, 2, area=50, groups={"reasoning_type": "spatial", "altitude": 30}),
        score(1, 4, area=10),
    ]
    found = breakdowns(scores, SPEC.scoring(), SPEC.group_titles)
    assert list(found) == ["overall", "by_target_size", "by_reasoning_type", "by_altitude"]
    assert found["overall"] == summarise(scores)
    assert found["by_reasoning_type"] == {"attribute": summarise(scores[1:2]), "spatial": summarise(scores[::2])}
    assert found["by_altitude"] == {"30": summarise(scores[1:3]), "100": summarise(scores[:1])}
    assert list(found["by_reasoning_type"]) == ["attribute", "spatial"]
    assert list(found["by_altitude"]) == ["30", "100"]  # by number, not by text
    assert list(found["by_target_size"]) == ["under 2 %", "2 to 10 %", "over 10 %"]
    assert [one["count"] for one in found["by_target_size"].values()] == [2, 1, 1]
    assert breakdowns(scores[3:], SPEC.scoring(), SPEC.group_titles)["by_altitude"] == {}


def test_a_data_set_has_its_own_groups_and_metrics() -> None:
    spec = DatasetSpec(
        "roofs", ("all",), "", "", list, {"clean": ScoringRules(("ciou",))}, group_titles={"region": "region of Spain"}
    )
    scores = [score(1, 2, groups={"region": "south", "altitude": 30}), score(1, 4, groups={"region": "north"})]
    found = breakdowns(scores, spec.scoring(), spec.group_titles)
    assert list(found) == ["overall", "by_target_size", "by_region"]
    assert found["overall"] == {"count": 2, "ciou": 2 / 6}
    assert found["by_region"] == {"north": {"count": 1, "ciou": 0.25}, "south": {"count": 1, "ciou": 0.5}}
    assert list(found["by_region"]) == ["north", "south"]


def metric(name: str, *scores: MaskScore) -> float | None:
    return METRICS[name].compute(list(scores))


def test_questions_without_a_target_are_right_where_nothing_is_marked() -> None:
    right, wrong = score(0, 0, target=-1, area=0, targets=0), score(0, 9, target=-1, area=0, targets=0, index=1)
    assert metric("n_acc", right, wrong, right) == pytest.approx(2 / 3)
    assert metric("n_acc", score(1, 2)) is None  # it has a target
    assert metric("giou", right, replace(wrong, matched=False)) == 0.5 and metric("ciou", right, wrong) == 0


def test_questions_with_targets_are_found_where_anything_is_marked_of_any_of_them() -> None:
    missed = [score(0, 5, area=5, targets=2, matched=False, predicted=False), score(0, 4, area=4, targets=2, target=1)]
    hit = [score(0, 5, area=5, targets=2, index=1), score(2, 4, area=4, targets=2, target=1, index=1)]
    assert metric("t_acc", *missed) == 0 and metric("t_acc", *hit) == 1 and metric("t_acc", *missed, *hit) == 0.5
    assert metric("t_acc", score(0, 0, target=-1, area=0, targets=0)) is None


def test_precision_at_a_threshold_counts_whole_pixels_of_targets() -> None:
    exactly, over, under = score(7, 10), score(8, 10), score(6, 10)
    surplus = score(0, 3, target=-1, area=0, matched=False)
    assert metric("pr70", exactly, over, under, surplus) == pytest.approx(2 / 3)  # IoU >= 0.7
    assert metric("pr70_strict", exactly, over, under, surplus) == pytest.approx(1 / 3)  # IoU > 0.7
    assert metric("pr50", score(0, 0, area=0)) == 1 and metric("pr50", score(0, 0, area=0, empty_iou=0.0)) == 0
    assert metric("pr50", surplus) is None


def test_the_mean_iou_of_a_picture_is_over_the_larger_of_its_masks_and_targets() -> None:
    """MUSE: a picture of two questions, 2 masks for 1 target, 1 mask for 2 targets."""
    first = [score(4, 4, picture="a", targets=1), score(0, 3, area=0, target=-1, picture="a", matched=False, targets=1)]
    second = [score(2, 4, picture="a", targets=2), score(0, 5, picture="a", targets=2, matched=False, predicted=False)]
    other = score(1, 4, picture="b")
    eps = {"rel": 1e-5}
    assert metric("giou_by_picture", *first, *second) == pytest.approx(1.5 / 3, **eps)  # max(3 masks, 3 targets)
    assert metric("giou_by_picture", *first, *second, other) == pytest.approx(1.75 / 4, **eps)
    assert metric("giou", *first, *second, other) == pytest.approx(1.75 / 5, **eps)


def test_an_answer_is_correct_where_foreground_and_background_are_on_the_mean() -> None:
    """IoU 0.25 of the foreground; of 1,000 pixels 960 are in neither and 990 not in both."""
    one = score(10, 40, area=20)
    assert (0.25 + 960 / 990) / 2 == pytest.approx(0.6098, abs=1e-4)
    assert metric("correct50", one) == metric("correct25", one) == 1
    missed = score(0, 600, area=300)  # (0 + 400 / 1000) / 2 = 0.2
    assert metric("correct25", missed) == 0


def test_no_target_metrics_are_told_where_such_questions_are_asked() -> None:
    rules = ScoringRules(("giou", "n_acc", "t_acc"))
    asked = [score(1, 2, area=2), score(0, 0, target=-1, area=0, targets=0, index=1)]
    found = breakdowns(asked, rules, ())
    assert found["overall"] == {"count": 2, "giou": pytest.approx(0.75, abs=1e-4), "n_acc": 1.0, "t_acc": 1.0}
    assert found["by_target_count"]["0"] == {"count": 1, "giou": 1.0, "n_acc": 1.0, "t_acc": None}
    plain = breakdowns(asked[:1], rules, ())
    assert list(plain) == ["overall", "by_target_size"] and list(plain["overall"]) == ["count", "giou"]


def test_questions_are_told_apart_by_their_number_of_targets() -> None:
    scores = [score(1, 2, targets=number) for number in (1, 2, 2, 3, 4, 9)]
    found = breakdowns(scores, ScoringRules(), ())["by_target_count"]
    assert {name: one["count"] for name, one in found.items()} == {"1": 1, "2": 2, "3": 1, "4 or more": 2}


@pytest.mark.parametrize("name", METRICS)
def test_sums_of_pictures_make_up_every_metric(name: str) -> None:
    """Which is what resampling rests on."""
    draw = random.Random(1)
    scores = [
        score(draw.randrange(50), 50 + draw.randrange(50), index=i, picture=str(i % 7), targets=draw.randrange(3))
        for i in range(60)
    ]
    pictures = [[one for one in scores if one.picture == str(i)] for i in range(7)]
    above, below = (sum(parts) for parts in zip(*(METRICS[name].sums(of) for of in pictures), strict=True))
    assert above / below == pytest.approx(metric(name, *scores), rel=1e-12)
