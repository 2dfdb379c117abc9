"""The rules of every data set, clean and official, on answers whose values are worked out by hand.

Pictures are 20 pixels wide and 10 high; boxes of 5, 10 or 15 whole columns keep their shares on every canvas.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.masks import encode_mask
from utils.datasets.base import GROUNDED, OFFICIAL, Sample
from utils.datasets.registry import DATASETS
from utils.evaluation.metrics import breakdowns
from utils.evaluation.scoring import score_records

HEIGHT, WIDTH = 10, 20


def polygon(left: int, right: int, top: int = 0, bottom: int = HEIGHT) -> tuple[float, ...]:
    return tuple(float(v) for v in (left, top, right, top, right, bottom, left, bottom))


def box(left: int, right: int, top: int = 0, bottom: int = HEIGHT) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return encode_mask(mask)


def sample(number: int, *targets: Any, picture: int | None = None) -> Sample:
    record = str(number if picture is None else picture)
    return Sample(Path(f"p{record}.png"), "Which?", None, targets, HEIGHT, WIDTH, "x", record, number, key=str(number))


def scored(name: str, metric: str, *answers: tuple[Sample, list[dict]]) -> dict[str, float]:
    """The metrics over questions and the masks that answer them."""
    rules = DATASETS[name].scoring(metric)
    records = {one.key: {"masks": masks, "scores": None, "status": "ok", "text": ""} for one, masks in answers}
    pairs = score_records([one for one, _ in answers], records, rules)
    found = breakdowns([score for score, _, _ in pairs], rules, ())["overall"]
    return {key: round(value, 4) for key, value in found.items() if key != "count"}


# IoU 50 / 100 and 150 / 200.
TWO = ((sample(0, (polygon(0, 10),)), [box(0, 5)]), (sample(1, (polygon(0, 20),)), [box(0, 15)]))
MEANS = {"giou": 0.625, "ciou": 0.6667}  # (0.5 + 0.75) / 2 and 200 / 300
AT_LEAST = {"pr50": 1.0, "pr60": 0.5, "pr70": 0.5, "pr80": 0.0, "pr90": 0.0}
ABOVE = {"pr50_strict": 0.5, "pr60_strict": 0.5, "pr70_strict": 0.5, "pr80_strict": 0.0, "pr90_strict": 0.0}
REFERRING = ("refclef", "refclef-berkeley", "refcoco", "refcoco-google", "refcoco+", "refcocog", "refcocog-google")
EXPECTED = {
    ("drseg", "clean"): MEANS,
    ("drseg", "hungarian"): MEANS,
    # IoU of the background 100 / 150 and 0 / 50: means of both classes 0.583 and 0.375
    ("drseg", "official"): {**MEANS, "correct25": 1.0, "correct50": 0.5},
    **{(name, rule): MEANS for name in ("reasonseg", "reasonseg-all-texts") for rule in ("clean", "official")},
    **{(name, "clean"): {**MEANS, **AT_LEAST} for name in REFERRING},
    **{(name, "official"): MEANS for name in REFERRING},
    **{(name, "lavt"): {**MEANS, **AT_LEAST} for name in REFERRING},
    ("grefcoco", "clean"): {**MEANS, "pr70": 0.5, "pr80": 0.0, "pr90": 0.0},
    **{(name, rule): {**MEANS, **AT_LEAST} for name in ("rrsis-d", "refsegrs") for rule in ("clean", "official")},
    **{(name, "segearth"): {**MEANS, **ABOVE} for name in ("rrsis-d", "refsegrs")},
    ("earthreason", "clean"): {**MEANS, **AT_LEAST},
    ("earthreason", "official"): {**MEANS, **ABOVE},
    ("muse", "clean"): MEANS,
    ("muse", "official"): {"giou_by_picture": 0.625, "ciou": 0.6667},
    ("vrsbench", "clean"): {"pr50": 1.0, "pr70": 0.5, "giou": 0.625},
    # in hundredths with both ends: 26 / 51 and 76 / 101 columns of cells
    ("vrsbench", "official"): {"pr50": 1.0, "pr70": 0.5},
    **{(name, "clean"): MEANS for name in ("coco", "masks", "labelme")},
}


@pytest.mark.parametrize(("name", "metric"), EXPECTED)
def test_two_answers_have_the_values_that_were_worked_out(name: str, metric: str) -> None:
    assert scored(name, metric, *TWO) == EXPECTED[name, metric]


def test_all_rules_of_all_data_sets_are_worked_out() -> None:
    """Those of grounded conversation are in `test_grounded.py`."""
    specs = [spec for spec in DATASETS.values() if spec.task != GROUNDED]
    assert {(spec.name, rule) for spec in specs for rule in spec.rules} == set(EXPECTED)


@pytest.mark.parametrize(
    ("name", "metric", "giou"),
    [
        (name, metric, giou)
        for name in REFERRING
        for metric, giou in (("clean", 1.0), ("official", 0.6667), ("lavt", 0.6667))
    ],
)
def test_what_two_polygons_of_an_object_cover_is_background_officially(name: str, metric: str, giou: float) -> None:
    """Columns 0 to 6, of which 2 to 4 twice: 40 of 60 pixels are left of the target."""
    answer = sample(0, (polygon(0, 4), polygon(2, 6))), [box(0, 6)]
    assert scored(name, metric, answer)["giou"] == giou


@pytest.mark.parametrize("name", [*REFERRING, "rrsis-d", "refsegrs"])
def test_nothing_against_nothing_is_a_hit_for_lisa_and_a_miss_for_lavt(name: str) -> None:
    answer = sample(0, box(0, 0)), [box(0, 0)]
    empty_is_zero = "lavt" if name in REFERRING else OFFICIAL
    assert scored(name, "clean", answer)["giou"] == 1 and scored(name, empty_is_zero, answer)["giou"] == 0


def test_grefcoco_counts_questions_about_nothing() -> None:
    """Right without a mask and with an empty one; a false mask of 20 pixels is in the sum of unions; a target that is
    not marked has an IoU of 0 and its own pixels in that sum."""
    nothing = [(sample(0), []), (sample(1), [box(0, 0)]), (sample(2), [box(0, 2)])]
    marked, missed = (sample(3, (polygon(0, 4),)), [box(0, 3)]), (sample(4, (polygon(0, 4),)), [])
    assert scored("grefcoco", "official", *nothing, marked, missed) == {
        "giou": round((1 + 1 + 0 + 0.75 + 0) / 5, 4),
        "ciou": round(30 / (20 + 40 + 40), 4),
        **{"n_acc": round(2 / 3, 4), "t_acc": 0.5, "pr70": 0.5, "pr80": 0.0, "pr90": 0.0},
    }


def test_several_masks_and_several_instances_of_grefcoco_count_as_one() -> None:
    both = sample(0, (polygon(0, 4),), (polygon(10, 14),))
    assert scored("grefcoco", "clean", (both, [box(0, 4), box(10, 14), box(18, 20)]))["giou"] == 0.8  # 80 / 100


def test_muse_pairs_masks_with_targets_by_overlap_and_counts_what_is_left_over() -> None:
    """One picture, two questions: masks in another order than the targets and one too many; one mask for two targets.

    Pairs: 30 / 40 and 1, a false mask, 1, a missed target. Five pairs; of the picture 4 masks and 4 targets.
    """
    first = sample(0, (polygon(0, 4),), (polygon(10, 14),), picture=0), [box(10, 14), box(0, 3), box(18, 20)]
    second = sample(1, (polygon(0, 2),), (polygon(6, 8),), picture=0), [box(6, 8)]
    assert scored("muse", "clean", first, second) == {"giou": 0.55, "ciou": round(90 / (40 + 40 + 20 + 20 + 20), 4)}
    assert scored("muse", "official", first, second)["giou_by_picture"] == round(2.75 / 4, 4)


def test_targets_of_drseg_are_paired_in_their_order_or_by_overlap() -> None:
    swapped = sample(0, (polygon(0, 4),), (polygon(10, 14),)), [box(10, 14), box(0, 3)]
    assert scored("drseg", "clean", swapped)["giou"] == 0 and scored("drseg", "hungarian", swapped)["giou"] == 0.875


def test_drseg_s_correct_answers_are_those_above_the_mean_of_two_classes() -> None:
    """Nothing of half a picture found and the other half marked: 0 of both; and a hit of 0.5 and 100 / 150."""
    missed = sample(2, (polygon(0, 10),)), [box(10, 20)]
    found = scored("drseg", "official", missed, TWO[0])
    assert (found["correct25"], found["correct50"]) == (0.5, 0.5)


def test_muse_s_official_mean_is_by_record_not_by_picture() -> None:
    """One picture in two records: a mask too many in one, a target missed in the other; 2 / (2 + 2), not 2 / 3."""
    first = sample(0, (polygon(0, 4),)), [box(0, 4), box(18, 20)]
    second = replace(sample(1, (polygon(0, 4),), (polygon(10, 14),)), image_path=Path("p0.png")), [box(0, 4)]
    assert scored("muse", "official", first, second)["giou_by_picture"] == 0.5


def test_earthreason_counts_pictures_without_a_target() -> None:
    found = scored("earthreason", "official", (sample(2), []), (sample(3), [box(0, 5)]), TWO[0])
    assert (found["giou"], found["ciou"]) == (0.5, round(50 / 150, 4))
    # SegEarth-R1 counts every sample, nothing against nothing as a hit: of three the first and no other is above 0.5
    assert found["pr50_strict"] == round(1 / 3, 4) and "n_acc" not in found
    found = scored("earthreason", "clean", (sample(2), []), (sample(3), [box(0, 5)]), TWO[0])
    assert (found["n_acc"], found["t_acc"], found["pr50"]) == (0.5, 1.0, 1.0)  # Pr of the one target


def test_a_mask_is_scored_by_its_box_on_vrsbench() -> None:
    """Two columns with a gap between them have the box of both."""
    apart = encode_mask(np.repeat([[1, 0, 0, 0, 1] + [0] * 15], HEIGHT, axis=0))
    found = scored("vrsbench", "clean", (sample(0, (polygon(0, 5),)), [apart]))
    assert found["giou"] == 1
    # 3 of 4 columns are the hundredths 0 to 15 against 0 to 20: 16 / 21 = 0.76
    assert scored("vrsbench", "official", (sample(0, (polygon(0, 4),)), [box(0, 3)])) == {"pr50": 1.0, "pr70": 1.0}
    # 2 of 3 are 0 to 10 against 0 to 15: 11 / 16 = 0.69
    assert scored("vrsbench", "official", (sample(0, (polygon(0, 3),)), [box(0, 2)])) == {"pr50": 1.0, "pr70": 0.0}
