"""`python -m utils.datasets`: list, check and convert."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.training import CHECKOUT
from tests.utils.datasets.formats.drawn_own import annotation, box, draw_picture, write_coco
from utils.datasets.command import main
from utils.datasets.registry import DATASETS, load_dataset
from utils.runtime.errors import UserError


def own(root: Path, count: int = 6, bad: bool = False) -> Path:
    for i in range(1, count + 1):
        draw_picture(root / "images" / f"{i}.jpg")
    rows = [annotation(i, i, [box(10, 10, 30, 20)]) for i in range(1, count + 1)]
    rows += [annotation(99, 1, [[1, 2]])] if bad else []
    write_coco(root / "instances.json", {i: f"{i}.jpg" for i in range(1, count + 1)}, rows)
    return root


def test_all_data_sets_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *DATASETS]
    assert "train, val, test, all" in lines[1 + list(DATASETS).index("coco")]


def test_check_writes_its_findings_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert main(["check", "coco", str(own(tmp_path / "own")), "--out", str(out), "--samples", "4"]) == 0
    printed = capsys.readouterr().out
    assert "split all: 6 questions about 6 pictures" in printed and "4 of 6 questions" in printed
    assert (out / "report.txt").read_text().strip() in printed
    assert Image.open(out / "sheet.png").width > 1000 and len(list(out.iterdir())) == 2


def test_check_ends_with_another_status_where_records_are_bad(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = own(tmp_path, bad=True)
    assert main(["check", "coco", str(root)]) == 1
    assert "1 bad records" in capsys.readouterr().out and "annotation 6 (id 99)"
    with pytest.raises(UserError, match="--samples is 0"):
        main(["check", "coco", str(root), "--samples", "0"])


def test_convert_writes_all_three_splits(tmp_path: Path) -> None:
    root, out = own(tmp_path / "own"), tmp_path / "new"
    assert main(["convert", "coco", str(root), "--out", str(out)]) == 0
    assert sum(len(load_dataset(out, split)) for split in ("train", "val", "test")) == 6
    with pytest.raises(UserError, match=r"instances\.json.*annotation 6 \(id 99\)"):
        main(["convert", "coco", str(own(tmp_path / "bad", bad=True)), "--split", "all", "--out", str(tmp_path / "b")])
    args = ["--split", "all", "--skip-bad-records", "--out", str(tmp_path / "b")]
    assert main(["convert", "coco", str(tmp_path / "bad"), *args]) == 0
    assert len(load_dataset(tmp_path / "b", "all")) == 5


def test_a_user_s_error_is_one_message_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "utils.datasets", "check", "coco", str(tmp_path / "nowhere")]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.startswith(f"error: {tmp_path}/nowhere: no such data folder")
    assert "Traceback" not in ended.stderr
