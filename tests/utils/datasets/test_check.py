"""utils.datasets.check: counts, and what is wrong with a data set."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.datasets.check import check_split, report, target_areas
from utils.runtime.errors import UserError

Make = Callable[..., Any]


def test_a_split_is_counted(make_drseg: Make, make_record: Make) -> None:
    two = [{"segmentation": [10, 10, 30, 10, 30, 20, 10, 20]}, {"segmentation": [0, 0, 60, 0, 60, 40, 0, 40]}]
    records = [make_record("a"), make_record("b", ann_list=two, reasoning_types=["scene"]),
               make_record("b", ann_list=[], no_target=True)]  # fmt: skip
    checked = check_split(make_drseg(records), "test", "drseg")
    text = report(checked, "drseg", Path("mine"), "test")
    assert text.startswith("drseg mine, split test: 3 questions about 2 pictures\n\nNothing is wrong")
    for line in ("attribute        2   66.7%", "scene            1   33.3%", "80x60        2  100.0%",
                 "2.0% to 5.0%           2   66.7%", "25.0% to 100.0%        1   33.3%",
                 "pixels: median 200, from 200 to 2,400"):  # fmt: skip
        assert f"  {line}\n" in f"{text}\n"
    assert "Targets a question\n  0        1   33.3%\n  1        1" in text and "altitude" not in text
    assert target_areas(checked.samples)[:, 0].tolist() == [200, 200, 2400]


def test_bad_records_are_listed_and_pictures_decoded(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("a"), make_record("b"), make_record("c", ann_list=[])])
    path = root / "CODrone" / "DRtest" / "b.jpg"
    path.write_bytes(path.read_bytes()[:700])
    before = logging.getLogger("utils").handlers[:]
    checked = check_split(root, "test", "drseg")
    assert len(checked.samples) == 1 and not checked.told and logging.getLogger("utils").handlers == before
    text = report(checked, "drseg", root, "test")
    assert "2 bad records, which training would refuse" in text
    assert "record 1 (id 'b')" in text and "record 2 (id 'c') has no target" in text


def test_where_all_are_bad_each_is_told_all_the_same(make_drseg: Make, make_record: Make) -> None:
    root = make_drseg([make_record("a", ann_list=[]), make_record("b", questions=[""])])
    with pytest.raises(UserError, match="no usable record(?s:.*)record 0 .*no target(?s:.*)record 1 .*question 0"):
        check_split(root, "test", "drseg")
