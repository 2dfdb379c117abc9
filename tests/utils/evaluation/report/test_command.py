"""python -m utils.evaluation.report: options, and what is said where they do not fit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import CHECKOUT
from tests.utils.evaluation.report.evaluated import make_header, make_samples, write_run
from utils.evaluation.report import command
from utils.runtime.errors import run_main


def test_a_page_is_written_from_the_data_that_were_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, asked = make_samples(tmp_path / "frames"), []
    monkeypatch.setattr(command, "load_dataset", lambda *given: asked.append(given) or list(samples.values()))
    folder = write_run(tmp_path / "eval", samples)
    out = tmp_path / "page.html"
    command.main([str(folder), "--data", "D", "--out", str(out)])
    assert "PixDLM on drseg" in out.read_text() and "Where is vehicle 11?" in out.read_text()
    command.main([str(folder), "--data", "D", "--split", "val", "--polygons", "first", "--out", str(out)])
    header = make_header()
    header["data"]["split"], header["protocol"]["skip_bad_records"] = "train", True
    command.main([str(write_run(folder, samples, **header)), "--data", "D", "--out", str(out)])
    assert asked == [
        ("D", "test", "drseg", "union", False, "check"),
        ("D", "val", "drseg", "first", False, "check"),
        ("D", "train", "drseg", "union", True, "check"),
    ]


def test_a_user_s_mistake_ends_with_status_2_and_without_a_traceback(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--data", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "utils.evaluation.report", *arguments], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{tmp_path}/metrics.json: no such file" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metrics.json", "", "not JSON, the file is empty"),
        ("metrics.json", "[1]", "holds no object"),
        ("metrics.json", '{"overall": {"count": 1}, "data": {"dataset": ["drseg"]}}', "data.dataset is"),
        ("metrics.json", '{"overall": {"count": 1}, "calibration": {"ece": 0.1}}', "calibration.bins is null"),
        ("metrics.json", '{"overall": {"count": 1}, "by_altitude": null, "by_target_size": 3}', "by_target_size is 3"),
        ("scores.jsonl", "", "holds no scores"),
        ("scores.jsonl", '{"id": "r0"}\n', "line 1: picture is missing"),
        ("scores.jsonl", '{"id": "r0", "pic', "line 1: not JSON"),
        ("predictions.jsonl", "[]\n", "line 1: holds a list"),
    ],
)
@pytest.mark.parametrize("second", [False, True])
def test_files_that_cannot_be_read_end_with_status_2_and_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    told: str,
    second: bool,
) -> None:
    samples = make_samples(tmp_path / "frames")
    monkeypatch.setattr(command, "load_dataset", lambda *given: list(samples.values()))
    folders = [write_run(tmp_path / side, samples) for side in "ab"]
    odd = folders[second] / name
    odd.write_text(content)
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: command.main([*map(str, folders), "--data", "D", "--out", str(tmp_path / "page.html")]))
    stderr = capsys.readouterr().err
    assert ended.value.code == 2 and re.search(f"error: {odd}(, |: )", stderr) and told in stderr, stderr
    assert "Traceback" not in stderr and not (tmp_path / "page.html").exists()
