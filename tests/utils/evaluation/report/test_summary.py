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
    comparison,
    control_table,
    kind_table,
    plain_table,
    score_table,
    signed,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_runs([write_run(tmp_path / "a", make_samples(tmp_path))])[0]


@pytest.fixture
def two(tmp_path: Path) -> list[Run]:
    samples = make_samples(tmp_path)
    other = write_run(tmp_path / "b", samples, shift=-0.25, giou=0.25)
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


def test_a_difference_has_its_interval_and_p_where_both_are_of_the_same_data(two: list[Run]) -> None:
    found = comparison(two)
    overall = found["overall"]["all"]
    for run, letter in zip(two, "ab", strict=True):
        run.metrics["overall"] = {name: overall[name][letter] for name in ("giou", "ciou")} | {"count": 12}
    table = score_table(two, SPEC, found)
    shown = {row[0]: row for row in rows(table)}
    low, high = overall["giou"]["interval"]
    assert rows(table)[1] == ["A", "B", "B − A", "p"] * 2
    assert low < high < 0 and shown["overall"][4:6] == [
        f"{signed(overall['giou']['difference'])} [{signed(low)}, {signed(high)}]", f"{overall['giou']['p']:.3f}"
    ]  # fmt: skip
    assert shown["overall"][4].startswith("−0.125") and "difference down" in table
    # metrics.json of the fixture has other scores in this row than scores.jsonl
    assert shown["2 to 10 %"][4:6] == ["−0.250", "–"]
    two[1].metrics["data"]["sha256"] = "e" * 64
    assert comparison(two) == {} == comparison(two[:1])
    two[1].metrics["data"]["sha256"], two[1].metrics["protocol"] = "d" * 64, None
    assert comparison(two) == {}


def test_a_difference_has_a_sign_unless_it_is_none() -> None:
    assert [signed(value) for value in (0.25, -0.25, 0.0004, -0.0004)] == ["+0.250", "−0.250", "0.000", "0.000"]


def test_a_group_that_one_run_lacks_has_no_difference(two: list[Run]) -> None:
    two[1].metrics["by_reasoning_type"] = {"scene": summary(5, 0.75)}
    found = {row[0]: row for row in rows(score_table(two, SPEC))}
    assert found["spatial"][1:5] == ["4", "0.750 [0.700, 0.800]", "–", "–"]
    assert found["scene"][1:5] == ["5", "–", "0.750 [0.700, 0.800]", "–"]


def test_what_became_of_masks_and_answers(run: Run, two: list[Run]) -> None:
    assert rows(kind_table([run]))[1:] == [
        ["no [SEG] in the answer", "1", "8.3 %"],
        ["broken [SEG] group", "1", "8.3 %"],
        ["wrong number of masks", "1", "8.3 %"],
        ["missed (IoU 0)", "1", "8.3 %"],
        ["poor (IoU < 0.5)", "1", "8.3 %"],
        ["good (IoU ≥ 0.5)", "7", "58.3 %"],
    ]
    assert 'href="#kind=no_seg"' in kind_table([run]) and rows(kind_table(two))[1][1:] == ["1", "8.3 %"] * 2
    assert ["without [SEG]", "1"] in rows(answer_table([run])) and "malformed" not in answer_table([run])
    del run.metrics["answers"]
    assert answer_table([run]) == ""


def test_text_of_the_files_is_no_markup(run: Run) -> None:
    hostile = "<script>x</script>"
    run.metrics["by_reasoning_type"] = {hostile: summary(1, 0.5)}
    run.metrics["controls"] = {hostile: {"overall": summary(1, 0.5)}}
    shown = score_table([run], SPEC) + plain_table([hostile], [[hostile, hostile]], hostile)
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 6
