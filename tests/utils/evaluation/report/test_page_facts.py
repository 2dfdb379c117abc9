"""utils.evaluation.report.page_facts: what the head of the page says of evaluations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.utils.evaluation.report.evaluated import forget_header, make_header, make_samples, write_run
from utils.evaluation.report.page_facts import differences, facts, rules_text, warnings
from utils.evaluation.report.runs import Run, read_runs

DECODING = {"max_new_tokens": 256, "temperature": 0.0, "top_p": 1.0, "beams": 1, "reasoning": True, "seed": None}
GENERATED = {**make_header()["protocol"], "kind": "generate", "reasoning": "own", "decoding": DECODING}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_runs([write_run(tmp_path / "a", make_samples(tmp_path))])[0]


@pytest.fixture
def two(tmp_path: Path) -> list[Run]:
    samples = make_samples(tmp_path)
    return read_runs([write_run(tmp_path / "a", samples), write_run(tmp_path / "b", samples, protocol=GENERATED)])


def told(run: Run) -> dict[str, str]:
    return {title: re.sub(r"<[^>]+>", "", value) for title, value in facts(run)}


def test_facts_name_data_protocol_checkpoint_code_and_hardware(run: Run) -> None:
    found = told(run)
    assert found["data"] == "drseg, split test, 12 records, 6 pictures" and found["sha256 of the data"] == "d" * 12
    assert found["protocol"] == "teacher-forced, no reasoning" and found["decoding"] == ""
    assert found["scoring"] == "each target by itself, matched by order, polygons: union, orientation: check"
    assert found["forward passes"] == "8 records, float32, sdpa attention, 1 thread"
    assert found["checkpoint"] == f"{'c' * 12} model.safetensors" and "c" * 64 in dict(facts(run))["checkpoint"]
    assert found["code"] == "0123abcd4567-dirty, opencv 5.0.0, torch 2.14.1"
    assert found["hardware"] == "A processor (CPU)" and warnings(run) == []
    run.metrics["checkpoint"] = {f"{number}.safetensors": "e" * 64 for number in range(4)}
    assert "and 3 other files" in dict(facts(run))["checkpoint"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "greedy, at most 256 tokens"),
        ({"beams": 4}, "4 beams, at most 256 tokens"),
        ({"temperature": 0.5, "top_p": 0.9, "seed": 7}, "temperature 0.5, top-p 0.9, seed 7, at most 256 tokens"),
    ],
)
def test_decoding_is_told_in_words(run: Run, changes: dict[str, float], said: str) -> None:
    run.metrics["protocol"]["decoding"] = DECODING | changes
    assert told(run)["decoding"] == said


def test_what_a_reader_must_know_is_said(run: Run) -> None:
    run.metrics["protocol"] |= {"uses_ground_truth_text": True, "neutral_fusion": True, "limit": 12}
    run.metrics["data"]["skipped"], run.metrics["answers"]["missing"] = ["one", "another"], 3
    run.metrics["data"]["unasked"], run.metrics["controls"]["shuffled-questions"]["missing"] = ["r1"], 4
    ground_truth, fusion, limit, skipped, unasked, missing, control = warnings(run)
    assert unasked == "1 questions were left out, which the model cannot be asked."
    assert control == "Under shuffled-questions, 4 records have no prediction and are scored as empty."
    assert "uses the data set’s answers as input" in ground_truth and "not the published model" in fusion
    assert "first 12 records" in limit and skipped.startswith("2 bad") and missing.startswith("3 records")
    assert "<strong>uses the data set’s answers as input</strong>" in dict(facts(run))["protocol"]
    assert told(run)["data"].endswith("6 pictures, the first 12 only, 2 skipped, 1 unasked")


def test_what_else_differs_between_two_runs_is_said(two: list[Run]) -> None:
    assert differences(two[:1]) == [] == differences([two[0], two[0]])
    two[1].pairs.pop()
    assert differences(two) == [
        "protocol: teacher-forced in A, generated answers in B",
        "reasoning: no reasoning in A, its own reasoning in B",
        "decoding: none in A, greedy, at most 256 tokens in B",
        "targets: 1 were scored in one of the two only",
    ]


def test_what_someone_else_s_predictions_do_not_say_is_not_known(run: Run, two: list[Run]) -> None:
    (theirs,) = read_runs([forget_header(two[1].folder)])
    found = told(theirs)
    assert found["protocol"] == "not named by the predictions" and found["data"].startswith("drseg, split test")
    assert [title for title, value in found.items() if not value] == [
        "decoding", "forward passes", "checkpoint", "code", "hardware"
    ]  # fmt: skip
    assert differences([run, theirs]) == ["protocol: teacher-forced in A, not known in B"]
    assert differences([theirs, run]) == ["protocol: not known in A, teacher-forced in B"]
    assert "sha256" in rules_text(theirs) and "config" not in rules_text(theirs)


def test_text_of_the_files_is_no_markup(run: Run) -> None:
    hostile = "<script>x</script>"
    run.metrics["data"]["split"] = run.metrics["hardware"]["name"] = run.metrics["protocol"]["kind"] = hostile
    run.metrics["checkpoint"] = run.metrics["versions"] = {hostile: hostile}
    run.metrics["code"] = run.metrics["data"]["sha256"] = run.metrics["protocol"]["decoding"] = hostile
    shown = "".join(value for _, value in facts(run)) + rules_text(run)
    assert "<script" not in shown and shown.count("&lt;script&gt;") > 12
