"""utils.evaluation.grounded: scores of descriptions whose phrases have masks, worked out by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.utils.datasets.formats.drawn_files import box_points, box_rle, draw_picture, write_labels
from utils.datasets.base import DatasetSpec, Sample
from utils.datasets.descriptions import INSTRUCTION
from utils.evaluation import grounded, score
from utils.evaluation.grounded import add_grounded, greedy_pairs, grounded_scores, grounded_table
from utils.evaluation.phrase_similarity import word_overlap
from utils.runtime.errors import UserError

CAR, ROAD = box_rle(0, 0, 10, 10), box_rle(20, 0, 30, 10)  # 100 pixels each
CAR_FOUND, ROAD_FOUND = box_rle(1, 0, 11, 10), box_rle(22, 0, 32, 10)
OF_CAR, OF_ROAD = 90 / 110, 80 / 120  # their IoUs
NOTHING = box_rle(0, 20, 10, 30)
WORDS = ("by words", word_overlap)
RECALLS = 101  # at which COCO reads the precision


def sample(name: str = "b", targets: tuple = (CAR, ROAD), labels: tuple = ("a red car", "the road")) -> Sample:
    known = Sample(Path(f"{name}.jpg"), "Describe.", "A red car on the road.", targets, 30, 40, "d", name, 0)
    return replace(known, key=name, phrases=labels)


def record(masks: tuple = (CAR_FOUND, ROAD_FOUND, NOTHING), **fields: Any) -> dict[str, Any]:
    phrases = ["the boat", "The road", "a red car"][: len(masks)]
    return {"question": "Describe.", "text": "It.", "status": "ok", "masks": list(masks), "phrases": phrases, **fields}


def scores(samples: list[Sample], records: dict[str, Any], official: bool = False) -> dict[str, Any]:
    return grounded_scores(samples, records, official, WORDS)


@pytest.fixture(autouse=True)
def no_caption_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grounded, "missing_for_captions", lambda: "METEOR and CIDEr are left out: Java missing")


def test_the_pair_of_the_largest_iou_comes_first() -> None:
    # Hungarian would take 0.8 and 0.7, greedily nothing is left for the second row.
    assert greedy_pairs(np.array([[0.9, 0.8], [0.7, 0.0]])) == [(0, 0)]
    assert greedy_pairs(np.array([[0.2, 0.5, 0.5]])) == [(0, 1)]
    assert greedy_pairs(np.array([[0.1], [0.6]])) == [(1, 0)]
    assert greedy_pairs(np.zeros((0, 3))) == []


def test_unpaired_masks_and_targets_cost_no_miou() -> None:
    assert scores([sample()], {"b": record()})["all"]["miou"] == pytest.approx((OF_CAR + OF_ROAD) / 2)
    assert scores([sample()], {"b": record((CAR_FOUND,))})["all"]["miou"] == pytest.approx(OF_CAR)


def test_a_picture_without_a_pair_has_a_miou_of_0() -> None:
    found = scores([sample(), sample("a"), sample("c")], {"b": record(), "a": record((NOTHING,))})
    assert found["all"]["miou"] == pytest.approx((OF_CAR + OF_ROAD) / 2 / 3)
    assert found["all"]["phrases"] == 6 and found["pictures"] == 3


def test_officially_a_wrong_phrase_ends_its_picture_and_else_it_is_passed_over() -> None:
    answers = {"b": record(), "c": record((CAR, ROAD), phrases=["red car", "a road"])}
    pair = [sample(), sample("c")]
    # In b the car has the larger IoU and is called a boat; its road would do, as both of c do.
    assert scores(pair, answers, official=True)["all"]["recall"] == 2 / 4
    assert scores(pair, answers)["all"]["recall"] == 3 / 4
    # Where the wrong phrase has the smaller IoU, the right one has been counted before.
    answers["b"] = record(phrases=["a red car", "a boat", "x"])
    assert scores(pair, answers, official=True)["all"]["recall"] == 3 / 4


def test_a_mask_whose_phrase_is_wrong_does_not_hold_a_target_back_unless_officially() -> None:
    answers = {"b": record((CAR, CAR_FOUND), phrases=["a boat", "a red car"])}
    assert scores([sample()], answers, official=True)["all"]["recall"] == 0
    assert scores([sample()], answers)["all"]["recall"] == 1 / 2


def test_a_mask_counts_from_an_iou_of_a_half() -> None:
    half, less = box_rle(0, 0, 5, 10), box_rle(0, 0, 4, 10)
    for official in (False, True):
        assert scores([sample()], {"b": record((half,), phrases=["a red car"])}, official)["all"]["recall"] == 1 / 2
        assert scores([sample()], {"b": record((less,), phrases=["a red car"])}, official)["all"]["recall"] == 0


def test_average_precision_of_one_picture() -> None:
    found = scores([sample()], {"b": record()})["all"]
    assert found["ap50"] == pytest.approx(1)  # right, right, wrong: precision 1 up to a recall of 1
    # From 0.50 to 0.65 both are found, up to 0.80 the car alone: precision 1 at the recalls 0 to 0.50 of 101.
    assert found["ap"] == pytest.approx((4 * 1 + 3 * 51 / RECALLS) / 10)


def test_average_precision_follows_the_order_of_ids() -> None:
    wrong = record((NOTHING,))
    first = scores([sample(), sample("a", (CAR,), ("a car",))], {"b": record(), "a": wrong})["all"]
    # wrong, right, right, wrong of three: precision 2/3 up to a recall of 2/3, which is 67 of the recalls
    assert first["ap50"] == pytest.approx(67 / RECALLS * 2 / 3)
    last = scores([sample("z", (CAR,), ("a car",)), sample()], {"b": record(), "z": wrong})["all"]
    assert last["ap50"] == pytest.approx(67 / RECALLS)  # right, right, wrong, wrong


def test_without_masks_all_is_0_and_without_phrases_recall_is_left_out() -> None:
    found = scores([sample()], {})
    assert found["all"] == {"phrases": 2, "ap50": 0.0, "ap": 0.0, "miou": 0.0, "recall": 0.0}
    nameless = record()
    del nameless["phrases"]
    found = scores([sample()], {"b": nameless})
    assert found["all"]["recall"] is None and found["all"]["ap50"] == pytest.approx(1)
    assert found["left_out"][0] == "recall is left out: 1 answers have masks without phrases"


def test_phrases_of_one_and_of_several_objects_are_scored_apart() -> None:
    kinds = {"phrase_kinds": ("multi-target", "uni-target")}
    pair = [
        replace(sample(), groups=kinds),
        replace(sample("c", (CAR,), ("x",)), groups={"phrase_kinds": ("uni-target",)}),
    ]
    answers = {"b": record(), "c": record((CAR,), phrases=["y"])}
    found = scores(pair, answers)
    multi, uni = found["multi-target"], found["uni-target"]
    assert (found["all"]["phrases"], multi["phrases"], uni["phrases"]) == (3, 1, 2)
    assert multi["miou"] == pytest.approx(OF_CAR) and uni["miou"] == pytest.approx((OF_ROAD + 1) / 2)  # b, b and c
    # Of several: the car; the road's mask is ignored where it matches, wrong above 0.65, but behind it.
    assert multi["ap50"] == pytest.approx(1) and multi["ap"] == pytest.approx(7 / 10)
    # Of one: road, nothing, c's car: right, wrong, right at 0.50; precision 1 to a recall of 0.5, 2/3 beyond.
    assert uni["ap50"] == pytest.approx((51 + 50 * 2 / 3) / RECALLS)
    assert (multi["recall"], uni["recall"]) == (0, 1 / 2)
    official = scores(pair, answers, official=True)
    assert (official["multi-target"]["recall"], official["uni-target"]["recall"]) == (0, 0)


def test_a_mask_of_another_size_is_named() -> None:
    with pytest.raises(UserError, match=r"record 'b': masks\[0\] has another size"):
        scores([sample()], {"b": record((box_rle(0, 0, 5, 5, 30, 40),))})


def test_the_text_is_scored_without_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(grounded, "missing_for_captions", lambda: "")
    monkeypatch.setattr(
        grounded, "caption_scores", lambda *sides: asked.extend(sides) or {"meteor": 0.25, "cider": 1.5}
    )
    found = scores([sample(), sample("c")], {"b": record(text="<p> A car </p> [SEG] it <answer>is</answer>.")})
    assert asked == [{"b": "A red car on the road.", "c": "A red car on the road."}, {"b": "A car it is.", "c": ""}]
    assert found["left_out"] == [] and "METEOR 0.2500, CIDEr 1.5000" in grounded_table(found)


def test_the_table_says_how_phrases_are_compared_and_what_is_left_out() -> None:
    kinds = {"phrase_kinds": ("multi-target", "uni-target")}
    found = scores([replace(sample(), groups=kinds)], {"b": record()}, official=True)
    assert grounded_table(found).splitlines() == [
        "grounded conversation, official rules: 1 pictures; phrases are compared by words",
        "                            phrases     AP50       AP     mIoU   recall",
        "all                               2   1.0000   0.5515   0.7424   0.0000",
        "  uni-target                      1   1.0000   0.4000   0.6667   0.0000",
        "  multi-target                    1   1.0000   0.7000   0.8182   0.0000",
        "METEOR and CIDEr are left out: Java missing",
    ]


def test_only_data_sets_of_this_task_are_scored_so() -> None:
    spec = DatasetSpec("roofs", ("all",), "", "", list)
    metrics: dict[str, Any] = {}
    assert add_grounded(metrics, [sample()], {"none": {"b": record()}}, spec) == "" and metrics == {}
    told = add_grounded(metrics, [sample()], {"none": {"b": record()}}, replace(spec, task="grounded"), "official")
    assert told.startswith("\ngrounded conversation, official rules") and metrics["grounded"]["all"]["recall"] == 0
    assert "official_recall" not in metrics["grounded"]
    told = add_grounded(metrics, [sample()], {"none": {"b": record()}}, replace(spec, task="grounded"))
    assert metrics["grounded"]["all"]["recall"] == 0.5 and metrics["grounded"]["official_recall"] == 0
    assert "recall by the official rule: 0.0000" in told


def test_the_command_prints_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_picture(tmp_path / "data" / "test" / "P1.png")
    text = "A <p> red car </p> [SEG] and <p> two roads </p> [SEG]."
    polygons = [[box_points(0, 0, 10, 10)], [box_points(20, 0, 30, 5), box_points(20, 5, 30, 10)]]
    write_labels(tmp_path / "data/test/P1.json", {"id": 0, "gcg_description": text, "polygons": polygons})
    answer = {"id": "P1", "question": INSTRUCTION, "masks": [CAR, ROAD], "phrases": ["the car", "red car"]}
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer))
    options = ["--data", str(tmp_path / "data"), "--dataset", "geopixeld"]
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "answers.jsonl"), *options])
    score.main()
    printed = capsys.readouterr().out
    assert "grounded conversation, clean rules: 1 pictures" in printed and "geopixeld test: 1 records" in printed
    found = json.loads((tmp_path / "metrics.json").read_text())["grounded"]
    assert found["all"]["ap50"] == pytest.approx(1)
    assert found["uni-target"]["phrases"] == found["multi-target"]["phrases"] == 1
    assert "by_phrase_kinds" not in json.loads((tmp_path / "metrics.json").read_text())
