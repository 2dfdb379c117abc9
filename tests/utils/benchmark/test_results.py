"""utils.benchmark.results: tables, and ratios to an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.measure import Cost, Part, row
from utils.benchmark.results import read_results, table
from utils.runtime.errors import UserError
from utils.runtime.files import write_json


def a_row(part: str, seconds: float, memory: int = 2**20, flops: int = 10**9) -> dict[str, Any]:
    """Of two samples, run once."""
    return row(Part(part, lambda section: None, samples=2), "", flops, [Cost(seconds, 0, memory, memory)], 1e9)


def test_the_table_sets_sections_in_and_leaves_out_what_is_not_known() -> None:
    rows = [a_row("eval", 4.0), a_row("eval: masks", 2.0), a_row("data: loader", 1.0, 0, 0)]
    lines = table(rows).splitlines()
    assert lines[0].split()[-3:] == ["peak", "MiB", "added"]
    assert lines[1].split() == ["eval", "2000.0", "0.50", "0.50", "25.0%", "1", "1"]
    assert lines[2].startswith("  masks ") and lines[3].startswith("data: loader ")
    assert lines[3].split()[2:] == ["500.0", "2.00"]


def test_two_runs_are_compared_by_ratio() -> None:
    old = [a_row("eval", 6.0, 4 * 2**20), a_row("train", 1.0)]
    lines = table([a_row("eval", 2.0), a_row("generate", 1.0)], old).splitlines()
    assert lines[0].split()[-2:] == ["old/new", "memory"]
    assert lines[1].split()[-2:] == ["3.00", "4.00"]
    assert lines[2].split()[-1] == "1" and len(lines) == 3


@pytest.mark.parametrize("text", [None, "", "[1]", '{"parts": []}', '{"settings": {}, "parts": 1}'])
def test_what_is_no_result_is_told(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "old.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=f"--compare {file}: "):
        read_results(file)


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = {"settings": {"batch": 2}, "parts": [a_row("eval", 6.0)]}
    write_json(tmp_path / "new.json", written)
    assert read_results(tmp_path / "new.json") == written
