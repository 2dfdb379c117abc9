"""utils.evaluation.report.tables: scores as aligned text."""

from __future__ import annotations

from utils.datasets.base import DatasetSpec
from utils.datasets.drseg import SPEC
from utils.evaluation.report.tables import heading, table

HALF = {"count": 4, "giou": 0.5, "ciou": 0.25}


def test_the_table_aligns_its_numbers() -> None:
    scores = {"overall": HALF, "by_reasoning_type": {"scene": HALF}, "by_target_size": {"under 2 %": HALF}}
    scores["by_altitude"] = {}  # nothing is known of it
    lines = table(scores, SPEC).splitlines()
    assert lines[0].split() == ["count", "gIoU", "cIoU"]
    assert lines[1].split() == ["overall", "4", "0.5000", "0.2500"]
    assert [line.strip() for line in lines if len(line.split()) == 2] == ["target size", "reasoning type"]
    assert len({len(line) for line in (lines[0], lines[1], lines[3], lines[5])}) == 1
    assert "altitude" not in table(scores, SPEC)


def test_a_table_has_the_columns_and_groups_of_its_data_set() -> None:
    spec = DatasetSpec("roofs", ("all",), "", "", list, metrics=("ciou",), group_titles={"region": "region of Spain"})
    scores = {
        "overall": {"count": 4, "ciou": 0.25},
        "by_target_size": {},
        "by_region": {"north": {"count": 1, "ciou": 1}},
    }
    lines = table(scores, spec).splitlines()
    assert [line.split() for line in lines] == [
        ["count", "cIoU"],
        ["overall", "4", "0.2500"],
        ["region", "of", "Spain"],
        ["north", "1", "1.0000"],
    ]


DATA = {"dataset": "drseg", "split": "test", "records": 300, "pictures": 100, "skipped": []}
ANSWERS = {"records": 300, "ok": 300, "no_seg": 0, "broken": 0, "wrong_count": 0, "missing": 0, "malformed": None}
FORCED = {"kind": "forced", "reasoning": "none", "uses_ground_truth_text": False, "decoding": None}


def test_the_heading_names_data_and_protocol() -> None:
    metrics = {"data": DATA, "protocol": FORCED, "answers": ANSWERS}
    assert heading(metrics).splitlines() == [
        "drseg test: 300 records about 100 pictures",
        "forced, reasoning none",
    ]


def test_the_heading_says_what_was_left_out_and_what_went_wrong() -> None:
    decoding = {"temperature": 0.0, "top_p": 1.0, "beams": 1, "max_new_tokens": 64}
    given = {"kind": "generate", "reasoning": "given", "uses_ground_truth_text": True, "decoding": decoding}
    answers = {**ANSWERS, "no_seg": 3, "broken": 2, "wrong_count": 1, "missing": 4, "malformed": 5}
    metrics = {"data": {**DATA, "skipped": ["a", "b"]}, "protocol": given, "answers": answers}
    assert heading(metrics).splitlines() == [
        "drseg test: 300 records about 100 pictures; 2 bad records skipped; "
        "4 records without a prediction, scored as empty",
        "generate, reasoning given (USES THE DATA SET'S ANSWERS AS INPUT); greedy, at most 64 tokens",
        "answers: 3 without [SEG], 2 with a broken [SEG] group, 1 with a wrong number of masks, "
        "5 not of the form <think>…</think><answer>…</answer>[SEG]…, of 300",
    ]
    for changed, expected in (
        ({"temperature": 0.5, "top_p": 0.9, "seed": 7}, "temperature 0.5, top-p 0.9, seed 7"),
        ({"beams": 3}, "3 beams"),
    ):
        metrics["protocol"] = {**given, "decoding": {**decoding, **changed}}
        assert f"; {expected}, at most 64 tokens" in heading(metrics)


def test_the_heading_says_which_records_and_questions_are_not_there() -> None:
    data = {**DATA, "skipped": ["a"], "unasked": ["b", "c", "d"]}
    controls = {"blank-question": {"overall": HALF, "missing": 5}, "swapped-images": {"overall": HALF}}
    metrics = {"data": data, "protocol": {**FORCED, "limit": 300}, "answers": ANSWERS, "controls": controls}
    assert heading(metrics).splitlines()[0] == (
        "drseg test: 300 records about 100 pictures; the first 300 only; 1 bad records skipped; 3 questions left out, "
        "which the model cannot be asked; 5 records without a prediction under blank-question, scored as empty"
    )


def test_predictions_that_do_not_say_how_they_were_made_have_no_protocol_in_the_heading() -> None:
    metrics = {"data": DATA, "protocol": {"matching": "order", "unit": "target"}, "answers": ANSWERS}
    assert heading(metrics) == "drseg test: 300 records about 100 pictures"
