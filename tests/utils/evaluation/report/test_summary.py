"""utils.evaluation.report.summary: tables that say what metrics.json says."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from tests.utils.evaluation.report.evaluated import make_samples, summary, write_run
from utils.datasets.drseg import SPEC
from utils.evaluation.report.runs import Run, read_runs
from utils.evaluation.report.summary import (
    answer_table,
    control_table,
    differences,
    facts,
    kind_table,
    plain_table,
    rules_text,
    score_table,
)

GENERATED = {"kind": "generate", "reasoning": "none", "decoding": {"top_p": 0.5}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_runs([write_run(tmp_path / "a", make_samples(tmp_path))])[0]


@pytest.fixture
def two(tmp_path: Path) -> list[Run]:
    samples = make_samples(tmp_path)
    other = write_run(tmp_path / "b", samples, giou=0.25, protocol=GENERATED)
    return read_runs([write_run(tmp_path / "a", samples), other])


def rows(table: str) -> list[list[str]]:
    """The text of each cell that is not empty."""
    lines = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]
    texts = [[unescape(re.sub(r"<[^>]+>", " ", cell)).strip() for cell in line] for line in cells]
    return [[re.sub(r"\s+", " ", text) for text in line if text] for line in texts if any(line)]


def test_scores_stand_with_intervals_and_controls(run: Run) -> None:
    assert rows(score_table([run], SPEC)) == [
        ["masks", "gIoU", "cIoU", "questions shuffled"],
        ["gIoU", "cIoU"],
        ["overall", "12", "0.500 [0.450, 0.550]", "0.250", "0.062", "0.031"],
        ["target size"],
        ["2 to 10 %", "12", "0.500 [0.450, 0.550]", "0.250", "–", "–"],
        ["reasoning type"],
        ["spatial", "4", "0.750 [0.700, 0.800]", "0.375", "0.030", "0.015"],
    ]


def test_two_runs_stand_side_by_side_with_their_difference(two: list[Run]) -> None:
    found = rows(score_table(two, SPEC))
    assert found[:2] == [["masks", "gIoU", "cIoU"], ["A", "B", "B − A"] * 2]
    assert found[2] == ["overall", "12", "0.500 [0.450, 0.550]", "0.250 [0.200, 0.300]", "−0.250", "0.250", "0.125",
                        "−0.125"]  # fmt: skip
    assert rows(control_table(two, SPEC))[:3] == [["questions shuffled"], ["A", "B"], ["overall", "0.062", "0.062"]]
    assert control_table(two[:1], SPEC) == ""


def test_a_group_that_one_run_lacks_has_no_difference(two: list[Run]) -> None:
    two[1].metrics["by_reasoning_type"] = {"scene": summary(5, 0.75)}
    found = {row[0]: row for row in rows(score_table(two, SPEC))}
    assert found["spatial"][1:5] == ["4", "0.750 [0.700, 0.800]", "–", "–"]
    assert found["scene"][1:5] == ["5", "–", "0.750 [0.700, 0.800]", "–"]


def test_what_became_of_masks_and_answers(run: Run, two: list[Run]) -> None:
    assert rows(kind_table([run]))[1:] == [
        ["no [SEG]", "1", "8.3 %"],
        ["broken group", "1", "8.3 %"],
        ["wrong count", "1", "8.3 %"],
        ["missed (IoU 0)", "1", "8.3 %"],
        ["poor (IoU < 0.5)", "1", "8.3 %"],
        ["good (IoU ≥ 0.5)", "7", "58.3 %"],
    ]
    assert 'href="#kind=no_seg"' in kind_table([run]) and rows(kind_table(two))[1][1:] == ["1", "8.3 %"] * 2
    assert ["without [SEG]", "1"] in rows(answer_table([run])) and "malformed" not in answer_table([run])
    del run.metrics["answers"]
    assert answer_table([run]) == ""


def test_facts_name_data_protocol_checkpoint_code_and_hardware(run: Run, two: list[Run]) -> None:
    found = {title: re.sub(r"<[^>]+>", "", value) for title, value in facts(run)}
    assert found["data"] == "drseg, split test, 12 records, 6 pictures"
    assert found["protocol"] == "teacher-forced, no reasoning" and found["decoding"] == ""
    assert found["checkpoint"] == f"{'c' * 12} model.safetensors" and "c" * 64 in dict(facts(run))["checkpoint"]
    assert found["code"] == "0123abcd4567" and found["hardware"] == "A processor, 2 cores"
    assert dict(facts(two[1]))["decoding"] == "top p 0.5"
    run.metrics["checkpoint"] = {f"{number}.safetensors": "e" * 64 for number in range(4)}
    assert "and 3 other files" in dict(facts(run))["checkpoint"]


def test_what_else_differs_between_two_runs_is_said(two: list[Run]) -> None:
    assert differences(two[:1]) == [] == differences([two[0], two[0]])
    two[1].pairs.pop()
    assert differences(two) == [
        "protocol: forced in A, generate in B",
        "decoding: none in A, top p 0.5 in B",
        "targets: 1 were scored in one of the two only",
    ]


def test_text_of_the_files_is_no_markup(run: Run) -> None:
    hostile = "<script>x</script>"
    run.metrics["by_reasoning_type"] = {hostile: summary(1, 0.5)}
    run.metrics["controls"] = {hostile: {"overall": summary(1, 0.5)}}
    run.metrics["data"]["split"] = run.metrics["hardware"]["cpu"] = run.metrics["protocol"]["kind"] = hostile
    run.metrics["checkpoint"] = {hostile: hostile}
    shown = score_table([run], SPEC) + "".join(value for _, value in facts(run)) + rules_text(run)
    shown += plain_table([hostile], [[hostile, hostile]], hostile)
    assert "<script" not in shown and shown.count("&lt;script&gt;") > 8
