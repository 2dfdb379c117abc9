"""utils.evaluation.report.tables: scores as aligned text."""

from __future__ import annotations

from utils.datasets.base import DatasetSpec
from utils.datasets.drseg import SPEC
from utils.evaluation.report.tables import table

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
