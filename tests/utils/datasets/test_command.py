"""`python -m utils.datasets`: list, check and convert."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_check_reads_every_split_that_is_there_and_lists_the_others(
    tmp_path: Path, make_drseg: Callable[..., Path], make_record: Callable[..., Any], capsys: pytest.CaptureFixture
) -> None:
    root = make_drseg([make_record("a"), make_record("b")])  # test alone
    (root / "labels" / "DRSeg_val.json").write_text((root / "labels" / "DRSeg_test.json").read_text())
    (root / "CODrone" / "DRval").symlink_to("DRtest")
    (root / "labels" / "DRSeg_val.json").write_text(json.dumps([make_record("a"), make_record("b", ann_list=[])]))
    assert main(["check", "drseg", str(root), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "split test: 2 questions" in printed and "split val: 1 questions" in printed and "of 3 questions" in printed
    assert f"Split train is not there: {root}/labels/DRSeg_train.json: no such split" in printed
    assert main(["check", "drseg", str(root), "--split", "test"]) == 0
    assert "val" not in capsys.readouterr().out
    (root / "labels").rename(root / "other")
    with pytest.raises(UserError, match="none of the splits train, val, test is there; name others with --split\n.*DR"):
        main(["check", "drseg", str(root)])


def test_convert_writes_the_splits_that_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = own(tmp_path / "own")
    (root / "instances.json").rename(root / "valid.json")
    with caplog.at_level(logging.WARNING):
        assert main(["convert", "coco", str(root), "--out", str(tmp_path / "new")]) == 0
    assert [one.name for one in (tmp_path / "new" / "labels").iterdir()] == ["DRSeg_val.json"]
    assert "the split train is not there" in caplog.text and "the split test is not there" in caplog.text
    (root / "valid.json").rename(root / "north.json")
    write_coco(root / "south.json", {1: "1.jpg"}, [annotation(1, 1, [box(10, 10, 30, 20)])])
    with pytest.raises(UserError, match="none of the splits .*--split\n.*there are north, south"):
        main(["convert", "coco", str(root), "--out", str(tmp_path / "newer")])


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
