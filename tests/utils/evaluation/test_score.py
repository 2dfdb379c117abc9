"""utils.evaluation.score as a command, on answers that are not ours and were written by hand."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.masks import encode_mask
from tests.training import CHECKOUT
from utils.evaluation import score
from utils.mini_drseg.generate import REASONING_TYPES, generate
from utils.runtime.errors import UserError, run_main

SQUARE, LARGE = [10, 10, 30, 10, 30, 20, 10, 20], [40, 25, 60, 25, 60, 45, 40, 45]  # 20 x 10 and 20 x 20 pixels
Score = Callable[..., dict[str, Any]]


def box(left: int, right: int, top: int, bottom: int, size: tuple[int, int] = (60, 80)) -> dict[str, Any]:
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    return encode_mask(mask)


ANSWERS = [
    # half of 200 pixels: IoU 100 / 200
    {"id": "half", "question": "Which car is red?", "masks": [box(10, 20, 10, 20)], "scores": [0.75]},
    # the first of two targets, all of it: IoUs 200 / 200 and 0 / 400
    {"id": "two", "question": "Which car is red?", "masks": [box(10, 30, 10, 20)], "scores": [0.95]},
    # both of the third's, in the wrong order, and a third mask of 50 pixels: IoUs 0 / 600, 0 / 600, 0 / 50
    {
        "id": "turned",
        "question": "Which  car is red? ",
        "masks": [box(40, 60, 25, 45), box(10, 30, 10, 20), box(0, 10, 0, 5)],
        "text": "Those.",
    },
    # 100 pixels of the picture's own 800 that the target of 200 in its labels' frame has there: IoU 100 / 800
    {"id": "fine", "question": "Which car is red?", "masks": [box(20, 25, 20, 40, (120, 160))], "status": "broken"},
]


@pytest.fixture
def root(make_drseg: Callable[..., Path], make_record: Callable[..., dict[str, Any]]) -> Path:
    both = [{"segmentation": [SQUARE]}, {"segmentation": [LARGE]}]
    records = [
        make_record("half", altitude=30),
        make_record("two", ann_list=both, reasoning_types=["spatial"]),
        make_record("turned", ann_list=both, reasoning_types=["spatial"]),
        make_record("fine", altitude=30),
    ]
    return make_drseg(records, sizes={"fine": (120, 160)})


@pytest.fixture
def run_score(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    def run(answers: list[dict[str, Any]], *given: str) -> dict[str, Any]:
        file = tmp_path / "answers" / "answers.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{json.dumps(one)}\n" for one in answers))
        monkeypatch.setattr(sys, "argv", ["score", str(file), "--data", str(root), *given])
        score.main()
        return json.loads((file.parent / "metrics.json").read_text())

    return run


def test_the_values_are_those_that_were_worked_out(run_score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_score(ANSWERS)
    eps = {"rel": 1e-6}  # the published IoU adds 1e-5 to the union
    assert found["overall"]["count"] == 7
    assert found["overall"]["giou"] == pytest.approx((1 / 2 + 1 + 1 / 8) / 7, **eps)
    assert found["overall"]["ciou"] == (100 + 200 + 100) / (200 + 200 + 400 + 600 + 600 + 50 + 800)
    assert found["by_reasoning_type"]["attribute"]["ciou"] == 200 / 1000
    assert found["by_reasoning_type"]["spatial"]["giou"] == pytest.approx(1 / 5, **eps)
    assert found["by_altitude"].keys() == {"30"} and found["by_altitude"]["30"]["giou"] == pytest.approx(5 / 16, **eps)
    assert {name: one["count"] for name, one in found["by_target_size"].items()} == {"2 to 10 %": 6}  # 50 px: no target
    assert found["answers"] == {
        **{"records": 4, "ok": 1, "no_seg": 0, "broken": 1, "wrong_count": 2, "missing": 0, "malformed": None}
    }
    # confidences 0.75 and 0.95 of masks with IoUs 0.5 and 1
    assert found["calibration"]["ece"] == pytest.approx((0.25 + 0.05) / 2, abs=1e-6)
    assert {"metric": "clean", "matching": "order", "unit": "target"}.items() <= found["protocol"].items()
    assert found["data"]["records"] == 4
    printed = capsys.readouterr().out
    assert printed.startswith("drseg test: 4 records about 4 pictures\nanswers: 1 with a broken [SEG] group, 2 with")
    assert " 0.2321 [" in printed and " 0.1404 [" in printed


def test_a_line_for_each_target_and_each_mask_that_is_left_over(run_score: Score, tmp_path: Path) -> None:
    run_score(ANSWERS)
    lines = [json.loads(line) for line in (tmp_path / "answers/scores.jsonl").read_text().splitlines()]
    assert [(one["id"], one["target"], one["mask"], one["intersection"], one["union"]) for one in lines] == [
        ("half", 0, 0, 100, 200),
        ("two", 0, 0, 200, 200),
        ("two", 1, None, 0, 400),
        ("turned", 0, 0, 0, 600),
        ("turned", 1, 1, 0, 600),
        ("turned", None, 2, 0, 50),
        ("fine", 0, 0, 100, 800),
    ]


def test_by_question_targets_and_masks_are_unions(run_score: Score) -> None:
    found = run_score(ANSWERS, "--unit", "question")
    assert found["overall"]["count"] == 4
    assert found["overall"]["ciou"] == (100 + 200 + 600 + 100) / (200 + 600 + 650 + 800)


def test_a_record_without_a_prediction_is_refused_or_scored_as_empty(
    run_score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="2 of 4 records have no prediction, the first 'two'; .*--allow-missing"):
        run_score([ANSWERS[0], ANSWERS[3]])
    found = run_score([ANSWERS[0], ANSWERS[3]], "--allow-missing")
    assert found["overall"]["count"] == 6 and found["overall"]["ciou"] == 200 / (200 + 2 * 600 + 800)
    assert found["answers"]["missing"] == 2
    assert "; 2 records without a prediction, scored as empty" in capsys.readouterr().out


HEADER = {"format": "PixDLM predictions 1"}


def test_records_that_are_missing_under_a_control_are_counted_and_told(
    run_score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = [{**one, "control": "blank-question"} for one in ANSWERS[:1]]
    with pytest.raises(UserError, match="3 of 4 records under control blank-question have no prediction"):
        run_score([*ANSWERS, *blank])
    found = run_score([*ANSWERS, *blank], "--allow-missing")
    assert found["answers"]["missing"] == 0 and found["controls"]["blank-question"]["missing"] == 3
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith("pictures; 3 records without a prediction under blank-question, scored as empty")
    whole = run_score([*ANSWERS, *({**one, "control": "blank-question"} for one in ANSWERS)], "--allow-missing")
    assert "missing" not in whole["controls"]["blank-question"] and "scored as empty" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([*ANSWERS, {**ANSWERS[0], "id": "new"}], "1 records are not in the data set, the first 'new'; its ids are"),
        ([*ANSWERS, ANSWERS[1]], "line 5: a second record of id 'two'"),
        ([{**ANSWERS[0], "question": "Which?"}, *ANSWERS[1:]], "record 'half' answers 'Which\\?', the data set asks"),
        (
            [*ANSWERS[:3], {**ANSWERS[3], "masks": [box(0, 1, 0, 1)]}],
            "'fine'.*80x60 pixels, its picture 160x120",
        ),
        (
            [{**HEADER, "data": {"sha256": "0" * 64, "records": 9}}, *ANSWERS],
            "made of other data: their header has 9 records with sha256 000000000000…, this split 4 with",
        ),
        ([{**HEADER, "overall": {"giou": 1}}, *ANSWERS], "answers.jsonl, line 1: the header has a field 'overall'"),
        (
            [{**HEADER, "protocol": {"matching": "hungarian"}}, *ANSWERS],
            "matched by 'hungarian', but drseg matches them by 'order'",
        ),
        (
            [{**HEADER, "data": {"unasked": ["half", "new", "old"]}}, *ANSWERS[1:]],
            "line 1: 2 of data.unasked are not in the data set, the first 'new'; ",
        ),
        (
            [{**HEADER, "data": {"unasked": ["half", "two", "turned", "fine"]}}, ANSWERS[0]],
            "line 1: data.unasked names all records",
        ),
    ],
    ids=["unknown", "twice", "question", "size", "data", "result", "matching", "unasked", "none asked"],
)
def test_what_does_not_belong_to_the_data_is_named_and_nothing_written(
    run_score: Score, tmp_path: Path, answers: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_score(answers)
    assert [file.name for file in (tmp_path / "answers").iterdir()] == ["answers.jsonl"]


def test_the_header_says_how_the_data_are_read_and_is_taken_over(run_score: Score) -> None:
    header = {**HEADER, "data": {"split": "test"}, "protocol": {"unit": "question", "kind": "ours"}, "made_by": "us"}
    found = run_score([{**header, "protocol": {**header["protocol"], "limit": 2}}, *ANSWERS[:2]])
    assert found["overall"]["count"] == 2 and found["made_by"] == "us"
    assert {"kind": "ours", "unit": "question", "limit": 2}.items() <= found["protocol"].items()
    with pytest.raises(
        UserError, match="--unit is 'target', but .*answers.jsonl says in its header .* 'question'; leave"
    ):
        run_score([header, *ANSWERS], "--unit", "target")


def test_the_template_asks_all_that_is_scored(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_score: Score
) -> None:
    file = tmp_path / "questions.jsonl"
    monkeypatch.setattr(sys, "argv", ["score", "--data", str(root), "--template", str(file)])
    score.main()
    asked = [json.loads(line) for line in file.read_text().splitlines()]
    assert asked[0] == {
        **{"id": "half", "image": str(root / "CODrone/DRtest/half.jpg"), "question": "Which car is red?"},
        **{"height": 60, "width": 80},
    }
    assert (asked[3]["height"], asked[3]["width"]) == (120, 160)
    found = run_score([{"id": one["id"], "question": one["question"], "masks": []} for one in asked])
    assert found["overall"]["giou"] == 0 and found["overall"]["count"] == 6


def test_without_a_file_a_template_is_wanted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["score", "--data", str(root)])
    with pytest.raises(UserError, match="name a predictions file, or --template FILE"):
        score.main()


def test_the_command_line_goes_before_the_header_and_is_told(
    run_score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_score(ANSWERS[:3], "--limit", "3", "--polygons", "first", "--orientation", "apply")
    given = {"limit": 3, "polygons": "first", "orientation": "apply"}
    assert {"matching": "order", "unit": "target", **given}.items() <= found["protocol"].items()
    assert found["data"]["records"] == 3
    assert "3 records about 3 pictures; the first 3 only\n" in capsys.readouterr().out
    header = {**HEADER, "protocol": {"limit": 2, "kind": "ours"}}
    found = run_score([header, *ANSWERS[:1]], "--limit", "1", "--skip-bad-records", "--unit", "question")
    given = {"matching": "order", "limit": 1, "kind": "ours", "skip_bad_records": True, "unit": "question"}
    assert given.items() <= found["protocol"].items()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--limit", "0"), "--limit is 0, expected at least 1"),
        (("--limit", "-1"), "--limit is -1, expected at least 1"),
        (("--unit", "mask"), "--unit is 'mask', expected target or question"),
    ],
)
def test_an_option_out_of_range_is_told_with_status_2(
    run_score: Score,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(score, "load_dataset", pytest.fail)  # told before the work
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: run_score(ANSWERS, *given))
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_unit_that_the_header_names_may_be_named_again(run_score: Score) -> None:
    header = {**HEADER, "protocol": {"unit": "question"}}
    assert run_score([header, *ANSWERS], "--unit", "question")["overall"]["count"] == 4


def test_the_output_folder_is_made_before_the_work(
    run_score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "read_predictions", pytest.fail)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--out {tmp_path / 'file'}: cannot be made a folder"):
        run_score(ANSWERS, "--out", str(tmp_path / "file"))
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "none/answers.jsonl"), "--data", str(tmp_path)])
    with pytest.raises(UserError, match="no such predictions file"):
        score.main()
    assert not (tmp_path / "none").exists()


def test_what_the_model_could_not_be_asked_is_left_out_and_told(
    run_score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    header = {**HEADER, "data": {"unasked": ["half"]}, "protocol": {"limit": 2}}
    found = run_score([header, *ANSWERS[1:3]])
    assert found["data"]["unasked"] == ["half"] and found["data"]["records"] == found["protocol"]["limit"] == 2
    told = "; the first 2 only; 1 questions left out, which the model cannot be asked\n"
    assert told in capsys.readouterr().out


def test_bad_records_are_those_of_the_data_and_not_the_header_s(
    make_drseg: Callable[..., Path],
    make_record: Callable[..., dict[str, Any]],
    run_score: Score,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_drseg([make_record("half"), make_record("bad", ann_list=[])])
    header = {**HEADER, "data": {"skipped": ["x", "y", "z"]}, "protocol": {"skip_bad_records": True}}
    (one,) = run_score([header, ANSWERS[0]])["data"]["skipped"]
    assert "(id 'bad') has no target" in one and "; 1 bad records skipped\n" in capsys.readouterr().out


def test_names_that_are_no_utf_8_are_written(
    make_drseg: Callable[..., Path],
    make_record: Callable[..., dict[str, Any]],
    run_score: Score,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = make_drseg([make_record("half"), make_record("Ä")])
    pictures = root / "CODrone/DRtest"
    latin = pictures / os.fsdecode(b"\xc4.jpg")
    (pictures / "Ä.jpg").rename(latin)
    found = run_score([ANSWERS[0], {**ANSWERS[0], "id": "Ä"}])
    assert found["overall"]["count"] == 2
    lines = (tmp_path / "answers/scores.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["picture"] for line in lines] == ["DRtest/half.jpg", "DRtest/\\xc4.jpg"]
    file = tmp_path / "questions.jsonl"
    monkeypatch.setattr(sys, "argv", ["score", "--data", str(root), "--template", str(file)])
    score.main()
    asked = [json.loads(line)["image"] for line in file.read_text(encoding="utf-8").splitlines()]
    assert asked == [str(pictures / "half.jpg"), str(latin)]  # read back as it is


def test_the_readme_s_example_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "utils/evaluation/README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith('    {"id"')]
    generate(tmp_path / "mini", {"test": len(lines)}, workers=1, kinds=REASONING_TYPES)
    (tmp_path / "answers.jsonl").write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(sys, "argv", ["score", str(tmp_path / "answers.jsonl"), "--data", str(tmp_path / "mini")])
    score.main()
    scored = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [one["id"] for one in scored] == ["mini_test_0000#0", "mini_test_0000#1"] and scored[0]["intersection"] > 0


def test_rules_are_chosen_by_name_and_told(run_score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_score(ANSWERS, "--metric", "official")
    assert list(found["overall"])[:5] == ["count", "giou", "ciou", "correct25", "correct50"]
    assert found["protocol"]["metric"] == "official" and "first polygon" in found["protocol"]["note"]
    assert "\nmetric official: the published reading takes the first polygon" in capsys.readouterr().out
    with pytest.raises(UserError, match="--metric is 'best'; drseg has clean, hungarian, official"):
        run_score(ANSWERS, "--metric", "best")


def test_official_values_stand_beside_the_clean_ones_and_are_of_the_same_unit(run_score: Score) -> None:
    each, as_one = run_score(ANSWERS), run_score(ANSWERS, "--unit", "question")
    assert list(each["official"]) == ["count", "giou", "ciou", "correct25", "correct50"]
    for found in (each, as_one):
        assert found["official"]["count"] == found["overall"]["count"]
        assert found["official"]["giou"] == found["overall"]["giou"]
    assert each["official"]["count"] > as_one["official"]["count"]
    assert "official" not in run_score(ANSWERS, "--metric", "hungarian")
