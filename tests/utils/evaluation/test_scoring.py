"""utils.evaluation.scoring: exact pixels, matched and counted, whoever has predicted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.language.tokens import SEG_TOKENS
from model.masks import IGNORE_LABEL, encode_mask
from utils.datasets.base import Sample, ScoringRules, target_masks
from utils.evaluation.metrics import mask_counts
from utils.evaluation.scoring import (
    answer_status,
    count_answers,
    overlap,
    picture_names,
    score_predictions,
    score_records,
)
from utils.runtime.errors import UserError

RULES, GROUPS = ScoringRules(), ("region",)
HUNGARIAN, AS_ONE = ScoringRules(matching="hungarian"), ScoringRules(unit="question")
HEIGHT, WIDTH = 6, 10


def box(left: int, right: int, top: int = 0, bottom: int = 1) -> dict[str, Any]:
    """Run lengths of a rectangle."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return encode_mask(mask)


def sample(*targets: dict[str, Any], number: int = 0, **fields: Any) -> Sample:
    whole = {"groups": {"region": "north"}, "key": f"r{number}", **fields}
    path = Path(f"folder/p{number}.jpg")
    return Sample(path, "Which?", None, targets, HEIGHT, WIDTH, "roofs", "r", number, **whole)


def record(*masks: dict[str, Any], scores: list[float] | None = None, **fields: Any) -> dict[str, Any]:
    return {"masks": list(masks), "scores": scores, "status": "ok", "text": "", **fields}


def counted(one: Sample, given: dict | None, rules: ScoringRules = RULES) -> list[tuple]:
    """Target, mask, intersection, union, area and matched of each pair."""
    found = score_records([one], {} if given is None else {one.key: given}, rules)
    return [(s.target, mask, s.intersection, s.union, s.area, s.matched) for s, _, mask in found]


# Pairs


def test_each_mask_is_held_against_the_target_of_its_place() -> None:
    two = sample(box(0, 4), box(6, 9))
    assert counted(two, record(box(0, 3), box(6, 10))) == [(0, 0, 3, 4, 4, True), (1, 1, 3, 4, 3, True)]
    assert counted(two, record(box(6, 10), box(0, 3))) == [(0, 0, 0, 8, 4, True), (1, 1, 0, 6, 3, True)]


def test_a_data_set_may_match_by_overlap() -> None:
    two = sample(box(0, 4), box(6, 9))
    assert counted(two, record(box(6, 10), box(0, 3)), HUNGARIAN) == [(0, 1, 3, 4, 4, True), (1, 0, 3, 4, 3, True)]


def test_masks_and_targets_that_are_left_over_score_zero() -> None:
    one, two = sample(box(0, 4)), sample(box(0, 4), box(6, 9))
    assert counted(one, record(box(0, 4), box(5, 7))) == [(0, 0, 4, 4, 4, True), (-1, 1, 0, 2, 0, False)]
    assert counted(two, record(box(0, 4))) == [(0, 0, 4, 4, 4, True), (1, None, 0, 3, 3, False)]
    assert counted(two, record()) == counted(two, None) == [(0, None, 0, 4, 4, False), (1, None, 0, 3, 3, False)]
    empty = score_records([two], {two.key: record(box(0, 0), box(0, 0))}, RULES)
    assert [score.iou for score, _, _ in empty] == [0, 0]


def test_a_mask_that_is_left_over_is_wrong_even_if_it_is_empty() -> None:
    found = score_records([sample(box(0, 4))], {"r0": record(box(0, 4), box(0, 0))}, RULES)
    assert [round(score.iou, 4) for score, _, _ in found] == [1, 0]


@pytest.mark.parametrize("unit", ["target", "question"])
@pytest.mark.parametrize(
    ("masks", "iou", "union"),
    [([], 1, 0), ([box(0, 0)], 1, 0), ([box(0, 0)] * 2, 1, 0), ([box(0, 2), box(1, 4)], 0, 4)],
)
def test_where_nothing_is_to_be_marked_nothing_is_right_and_all_that_is_marked_counts_once(
    unit: str, masks: list[dict], iou: float, union: int
) -> None:
    ((score, _, _),) = score_records([sample()], {"r0": record(*masks)}, replace(RULES, unit=unit))
    assert (score.iou, score.union, score.area, score.target) == (iou, union, 0, -1)


def test_as_a_question_masks_and_targets_count_as_their_unions() -> None:
    two = sample(box(0, 4), box(6, 9))
    found = score_records([two], {"r0": record(box(3, 7), box(6, 8), scores=[0.25, 0.75])}, AS_ONE)
    ((score, _, mask),) = found
    assert (mask, score.target, score.intersection, score.union, score.area) == (0, 0, 3, 9, 7)
    assert score.confidence == 0.75
    assert counted(two, record(), AS_ONE) == [(0, None, 0, 7, 7, False)]


def test_a_score_knows_its_record() -> None:
    two, given = sample(box(0, 4), box(6, 9), number=3), record(box(6, 10), box(0, 3), scores=[0.25, 0.75])
    found = score_records([two], {"r3": given}, HUNGARIAN)
    assert [(score.index, score.confidence) for score, _, _ in found] == [(3, 0.75), (3, 0.25)]
    for score, own, _ in found:
        assert own is given and (score.picture, score.pixels, score.groups) == ("folder/p3.jpg", 60, two.groups)
    assert score_records([two], {"r3": {**given, "scores": None}}, RULES)[0][0].confidence is None


def test_a_mask_of_another_size_is_told() -> None:
    wide = encode_mask(np.zeros((HEIGHT, WIDTH + 1)))
    with pytest.raises(
        UserError, match=r"record 'r0': masks\[1\] has 11x6 pixels, its picture 10x6; predict in the pic"
    ):
        score_records([sample(box(0, 4))], {"r0": record(box(0, 1), wide)}, RULES)


def test_a_picture_of_another_size_than_its_labels_is_scored_in_its_own() -> None:
    polygon = ((2.0, 1.0, 6.0, 1.0, 6.0, 3.0, 2.0, 3.0),)  # 4 x 2 in the labels, 8 x 4 in the picture
    large = sample(polygon, picture_size=(12, 20))
    drawn = np.zeros((12, 20))
    drawn[2:6, 4:8] = 1  # its left half
    assert counted(large, record(encode_mask(drawn))) == [(0, 0, 16, 32, 32, True)]
    with pytest.raises(UserError, match="10x6 pixels, its picture 20x12"):
        counted(large, record(box(0, 1)))


# Pixels


@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.parametrize("scale", [1, 3])
def test_pixels_are_those_that_are_counted_in_drawn_masks(ignoring: bool, scale: int) -> None:
    generator = np.random.default_rng(scale)
    size = HEIGHT * scale, WIDTH * scale

    def drawn(height: int, width: int) -> dict[str, Any]:
        return encode_mask(generator.random((height, width)) < generator.random())

    def polygon() -> tuple[float, ...]:
        return tuple(float(v) for v in generator.uniform(0, 1, 8) * ([WIDTH, HEIGHT] * 4))

    ignored = 0
    for number in range(40):
        target = drawn(HEIGHT, WIDTH) if number % 2 else (polygon(), polygon())
        ignore = [drawn(HEIGHT, WIDTH), (polygon(),)][number // 2 % 2] if ignoring else None
        one = sample(target, ignore=ignore, picture_size=size)
        mask = generator.random(size) < 0.5
        (truth,) = target_masks(one, *size)
        ignored += int((truth == IGNORE_LABEL).any())
        expected = *mask_counts(mask, truth), int((truth == 1).sum())
        assert counted(one, record(encode_mask(mask))) == [(0, 0, *expected, True)]
        nothing = np.zeros_like(truth)
        assert counted(one, record()) == [(0, None, *mask_counts(nothing, truth), expected[2], False)]
        no_truth = np.where(truth == IGNORE_LABEL, truth, 0)
        surplus = counted(one, record(encode_mask(nothing), encode_mask(mask)))[1]
        assert surplus == (-1, 1, *mask_counts(mask, no_truth), 0, False)
    assert overlap(None, None) == (0, 0, 0)
    assert (ignored > 30) == ignoring  # a small polygon may hold no pixel


def test_ignored_pixels_are_taken_off_the_union_of_several_targets_too() -> None:
    one = sample(box(0, 4), box(6, 9), ignore=box(3, 7))
    assert counted(one, record(box(0, 10)), AS_ONE) == [(0, 0, 5, 6, 5, True)]


def test_masks_are_matched_by_the_pixels_that_are_counted() -> None:
    # Columns 2 to 5 are ignored. With them the first mask would have the first target, of which it marks 4 of 6;
    # without them it marks nothing.
    two = sample(box(0, 6), box(6, 10), ignore=box(2, 6))
    given = record(box(2, 6), box(0, 2), box(6, 8))
    assert counted(two, given, HUNGARIAN) == [(0, 1, 2, 2, 2, True), (1, 2, 2, 4, 4, True), (-1, 0, 0, 0, 0, False)]


# Answers


@pytest.mark.parametrize(
    ("given", "target", "question"),
    [
        (None, "missing", "missing"),
        (record(box(0, 1), box(0, 1)), "ok", "ok"),
        (record(box(0, 1)), "wrong_count", "ok"),
        (record(*[box(0, 1)] * 3), "wrong_count", "ok"),
        (record(), "wrong_count", "wrong_count"),
        (record(status="no_seg"), "no_seg", "no_seg"),
        (record(box(0, 1), status="broken"), "broken", "broken"),
        (record(box(0, 1), box(0, 1), status="broken"), "broken", "broken"),
    ],
)
def test_statuses(given: dict | None, target: str, question: str) -> None:
    two = sample(box(0, 4), box(6, 9))
    assert [answer_status(two, given, unit) for unit in ("target", "question")] == [target, question]


def test_no_mask_is_right_where_there_is_no_target() -> None:
    assert answer_status(sample(), record(), "target") == "ok"
    assert answer_status(sample(), record(box(0, 1)), "target") == "wrong_count"


def test_answers_are_counted_by_status_and_malformed_ones_where_reasoning_is_expected() -> None:
    samples = [sample(box(0, 4), number=i) for i in range(5)]
    whole = f"<think> a </think> <answer> b </answer> {' '.join(SEG_TOKENS)}"
    records = {
        "r0": record(box(0, 1), text=whole),
        "r1": record(text=whole),
        "r2": record(status="no_seg", text="nothing"),
        "r3": record(status="broken", text="[SEG0]"),
    }
    expected = {"records": 5, "ok": 1, "no_seg": 1, "broken": 1, "wrong_count": 1, "missing": 1}
    assert count_answers(samples, records, "target", False) == {**expected, "malformed": None}
    assert count_answers(samples, records, "target", True) == {**expected, "malformed": 3}


# All of a file


def test_scores_by_hand_with_controls_and_lines() -> None:
    samples = [sample(box(0, 4), number=0), sample(box(0, 2), box(6, 9), number=1, groups={"region": "south"})]
    records = {
        "none": {"r0": record(box(0, 3), scores=[0.8]), "r1": record(box(0, 2), box(7, 10), scores=[0.9, 0.7])},
        "blank-question": {"r0": record(box(2, 6)), "r1": record()},
    }
    metrics, lines = score_predictions(samples, records, RULES, GROUPS)
    # IoUs: 3/4; 2/2 and 2/4
    assert metrics["overall"]["giou"] == pytest.approx((3 / 4 + 1 + 2 / 4) / 3, abs=1e-5)
    assert metrics["overall"]["ciou"] == 7 / 10 and metrics["overall"]["count"] == 3
    assert metrics["by_region"]["north"]["ciou"] == 3 / 4 and metrics["by_region"]["south"]["ciou"] == 4 / 6
    assert {"giou_interval", "ciou_interval"} <= metrics["overall"].keys()
    assert metrics["answers"]["ok"] == 2 and "ece" in metrics["calibration"]
    blank = metrics["controls"]["blank-question"]
    assert blank["overall"]["ciou"] == 2 / (6 + 2 + 3) and blank["by_region"]["north"]["ciou"] == 2 / 6
    assert blank["overall"]["giou"] == pytest.approx(2 / 6 / 3, abs=1e-5) and "calibration" not in blank
    assert len(lines) == 6 and [line["control"] for line in lines if "control" in line] == ["blank-question"] * 3
    assert lines[2] == {
        **{
            "id": "r1",
            "picture": "folder/p1.jpg",
            "record": "r",
            "target": 1,
            "targets": 2,
            "mask": 1,
            "merged": False,
            "iou": 2 / (4 + 1e-5),
        },
        **{"intersection": 2, "union": 4, "area": 3, "pixels": 60, "score": 0.7, "status": "ok"},
        "groups": {"region": "south"},
    }
    assert (lines[4]["target"], lines[4]["mask"], lines[4]["status"], lines[4]["score"]) == (
        0,
        None,
        "wrong_count",
        None,
    )


def test_lines_tell_what_was_merged_and_what_has_no_target() -> None:
    _, lines = score_predictions([sample(box(0, 2), box(6, 9))], {"none": {"r0": record(box(0, 2))}}, AS_ONE, GROUPS)
    assert [(line["merged"], line["target"], line["mask"]) for line in lines] == [(True, 0, 0)]
    _, lines = score_predictions([sample()], {"none": {"r0": record(box(0, 2), box(3, 4))}}, RULES, GROUPS)
    assert [(line["merged"], line["target"], line["mask"], line["union"]) for line in lines] == [(True, None, 0, 3)]
    _, lines = score_predictions([sample(box(0, 2))], {"none": {}}, RULES, GROUPS)
    assert [(line["status"], line["mask"], line["iou"]) for line in lines] == [("missing", None, 0)]


def test_pixels_that_two_polygons_of_a_target_cover_are_left_out_where_the_rules_say_so() -> None:
    """LAVT and LISA add up a target's polygons and take the pixels of value 1."""
    left, right = (0.0, 0.0, 4.0, 0.0, 4.0, 2.0, 0.0, 2.0), (2.0, 0.0, 6.0, 0.0, 6.0, 2.0, 2.0, 2.0)
    one = sample((left, right))  # 6 x 2 pixels, of which 2 x 2 twice
    assert counted(one, record(box(0, 6, 0, 2))) == [(0, 0, 12, 12, 12, True)]
    assert counted(one, record(box(0, 6, 0, 2)), ScoringRules(covered_once=True)) == [(0, 0, 8, 12, 8, True)]


def test_masks_are_scored_on_the_canvas_of_the_rules() -> None:
    """A mask of columns 0 and 3 alone has the same box as the target of columns 0 to 3."""
    apart = encode_mask(np.array([[1, 0, 0, 1, *[0] * 6], *[[0] * 10] * 5], np.uint8))
    assert counted(sample(box(0, 4)), record(apart)) == [(0, 0, 2, 4, 4, True)]
    assert counted(sample(box(0, 4)), record(apart), ScoringRules(canvas="box")) == [(0, 0, 4, 4, 4, True)]
    half = sample(box(0, 5, 0, HEIGHT))
    ((score, *_),) = score_records([half], {"r0": record(box(0, 5))}, ScoringRules(canvas="square480"))
    assert (score.intersection, score.union, score.area, score.pixels) == (240 * 80, 240 * 480, 240 * 480, 480 * 480)


def test_two_empty_masks_are_worth_what_the_rules_say_but_where_no_target_is_they_are_right() -> None:
    empty = encode_mask(np.zeros((HEIGHT, WIDTH), np.uint8))
    for rules, expected in ((RULES, 1.0), (ScoringRules(empty_iou=0.0), 0.0)):
        ((score, *_),) = score_records([sample(empty)], {"r0": record(empty)}, rules)
        assert score.iou == expected
        ((score, *_),) = score_records([sample()], {"r0": record()}, rules)
        assert score.iou == 1.0


def test_pictures_of_one_name_in_one_folder_s_name_are_told_apart() -> None:
    paths = [Path(f"/data/flight{i}/img/001.jpg") for i in (1, 2)]
    both = [replace(sample(number=i), image_path=path) for i, path in enumerate(paths)]
    assert list(picture_names(both).values()) == ["flight1/img/001.jpg", "flight2/img/001.jpg"]
    assert list(picture_names(both[:1]).values()) == ["img/001.jpg"]
