"""utils.evaluation.report.runs: the files of an evaluation, and what is said of those that are no such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.utils.evaluation.report.evaluated import forget_header, make_samples, write_run
from utils.evaluation.report.runs import read_runs, run_names, units_of
from utils.runtime.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "eval", make_samples(tmp_path / "frames"))


def change_line(path: Path, number: int, **changes: Any) -> None:
    lines = path.read_text().splitlines()
    record = {**json.loads(lines[number]), **changes}
    lines[number] = json.dumps({name: value for name, value in record.items() if value != "left out"})
    path.write_text("\n".join(lines) + "\n")


def test_records_under_no_control_are_read(folder: Path) -> None:
    (run,) = read_runs([folder])
    assert [pair.id for pair in run.pairs] == [f"r{number}" for number in range(12)] == list(run.answers)
    assert run.pairs[4].iou == 0.25 and run.pairs[1].mask is None and run.pairs[1].score is None
    assert run.answers["r4"]["text"] == "answer 4 <b>bold</b>" and len(run.answers["r4"]["masks"]) == 1
    assert run.metrics["overall"]["count"] == 12 and run.name == f"{folder.parent.name}/eval"


def test_names_tell_folders_apart() -> None:
    assert run_names([Path("/runs/mini/eval")]) == ["mini/eval"]
    assert run_names([Path("/a/mini/eval"), Path("/b/mini/eval")]) == ["a/mini/eval", "b/mini/eval"]
    assert run_names([Path("/runs/one"), Path("/runs/two")]) == ["runs/one", "runs/two"]


@pytest.mark.parametrize("name", ["metrics.json", "scores.jsonl", "predictions.jsonl"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: no such file.*(evaluate again|copy the scored predictions there)"):
        read_runs([folder])


def test_a_mask_that_nobody_has_predicted_is_named(folder: Path) -> None:
    change_line(folder / "scores.jsonl", 2, mask=3)
    with pytest.raises(UserError, match=r"predictions.jsonl: record 'r1' has 0 masks.*mask 3"):
        read_runs([folder])


def test_too_many_folders_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="3 folders"):
        read_runs([folder] * 3)


def test_predictions_without_a_header_are_read_and_broken_ones_refused(folder: Path) -> None:
    (run,) = read_runs([forget_header(folder)])
    assert list(run.answers) == [f"r{number}" for number in range(12)] and "config" not in run.metrics
    change_line(folder / "predictions.jsonl", 1, masks=["10"])
    with pytest.raises(UserError, match=r"predictions.jsonl, line 2: masks\[0\] is 10, expected"):
        read_runs([folder])


def test_evaluations_of_targets_and_of_questions_are_not_compared(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "frames")
    each = write_run(tmp_path / "a", samples)
    united = write_run(tmp_path / "b", samples, protocol={"unit": "question"})
    unsaid = write_run(tmp_path / "c", samples, protocol=None)
    assert units_of(read_runs([each]), "question") == "target" and units_of(read_runs([unsaid]), "target") == "target"
    assert units_of(read_runs([united]), "target") == "question"
    with pytest.raises(UserError, match="report on each alone"):
        units_of(read_runs([each, united]), "target")
