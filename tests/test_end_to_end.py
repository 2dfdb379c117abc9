"""train.sh, eval.sh and infer.py one after the other as a user runs them, in a copy of the checkout.

The model is tiny and so are the data; what they learn is not judged here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from model.language.tokens import SEG_TOKENS
from tests.training import CHECKOUT, OVERRIDES
from utils.datasets.registry import load_dataset
from utils.mini_drseg.generate import REASONING_TYPES, generate

pytestmark = pytest.mark.slow

COPIED = ("train.sh", "eval.sh", "train.py", "eval.py", "infer.py", "requirements.txt")
COUNTS = {"train": 24, "val": 6, "test": 6}
SCORES = ("overall", "by_reasoning_type", "by_target_size", "by_altitude")
FILES = {"metrics.json", "predictions.jsonl", "scores.jsonl"}
CONTROLS = ["shuffled-questions", "swapped-images", "blank-question"]

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in a copy of the checkout, from another folder; `run.root` is the copy."""
    root = tmp_path_factory.mktemp("user") / "check out"
    for name in ("utils", "model"):
        shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "PixDLM/mini").mkdir(parents=True)
    for name in (*COPIED, "PixDLM/mini/tokenizer.model"):
        shutil.copy(CHECKOUT / name, root / name)
    environ = {**os.environ, "PIXDLM_PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    for name in ("NPROC", "HOSTFILE", "PIXDLM_CHECKED", "PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environ.pop(name, None)

    def run_in_copy(*command: str | Path, cwd: Path = root.parent, **settings: str) -> subprocess.CompletedProcess:
        ended = subprocess.run(
            [str(one) for one in command],
            cwd=cwd,
            env={**environ, "OMP_NUM_THREADS": "1", **settings},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr[-5000:]
        assert "Traceback" not in ended.stderr, ended.stderr[-5000:]
        return ended

    run_in_copy.root = root
    return run_in_copy


@pytest.fixture(scope="module")
def trained(run: Run) -> subprocess.CompletedProcess:
    """`bash train.sh mini`; the data are there, so it draws none."""
    generate(run.root / "data/DRSeg-mini", COUNTS, workers=1, kinds=REASONING_TYPES)
    steps = ["--epochs", "2", "--steps-per-epoch", "25", "--validate-every", "1", "--warmup-steps", "5", "--lr", "5e-3"]
    steps += ["--ce-weight", "1"]  # so few teach what an answer is only where it counts fully
    return run("bash", run.root / "train.sh", "mini", *steps, "--log-every", "5", *OVERRIDES)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def records_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of predictions.jsonl by control, without its header."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "predictions.jsonl").read_text().splitlines()[1:]:
        found.setdefault(json.loads(line).get("control", "none"), []).append(json.loads(line))
    return found


def test_training_ends_with_the_table_and_its_controls(run: Run, trained: subprocess.CompletedProcess) -> None:
    folder = run.root / "runs/mini"
    (title,) = (line for line in trained.stdout.splitlines() if "gIoU" in line and "count" in line)
    assert title.split()[-3:] == ["shuffled", "swapped", "blank"] and title.split()[0] == "count"
    table = trained.stdout[trained.stdout.index(title) + len(title) :]
    assert table.split()[:2] == ["overall", "6"]
    assert all(name in table for name in ("reasoning type", "spatial", "attribute", "scene", "target size"))
    events = [path.name for path in folder.iterdir() if "tfevents" in path.name]
    found = {path.name for path in folder.iterdir()} - set(events)
    assert len(events) == 1 and found == {"last", "best", "train.log", "eval", "state"}
    assert {path.name for path in (folder / "eval").iterdir()} == {*FILES, "report.html"}
    samples = load_dataset(run.root / "data/DRSeg-mini", "test")
    metrics, records = read(folder / "eval/metrics.json"), records_of(folder / "eval")
    named = {"answers", "calibration", "controls", "data", "protocol", "code", "versions", "hardware"}
    assert metrics.keys() == {*SCORES, *named, "official", "checkpoint", "config"}
    assert metrics["protocol"]["controls"] == list(records) == ["none", *CONTROLS]
    assert list(metrics["controls"]) == CONTROLS and metrics["data"]["split"] == "test"
    row = table.splitlines()[1].split()
    for scores, shown in zip([metrics, *metrics["controls"].values()], [row[2], *row[-3:]], strict=True):
        assert scores["overall"]["count"] == metrics["data"]["records"] == 6
        assert 0 <= scores["overall"]["giou"] <= 1 and 0 <= scores["overall"]["ciou"] <= 1
        assert f"{scores['overall']['giou']:.4f}" == shown
    asked = [sample.question for sample in samples]
    for control, of_control in records.items():
        assert [one["id"] for one in of_control] == [sample.key for sample in samples]
        questions = [one["question"] for one in of_control]
        if control == "blank-question":
            assert questions == [""] * 6
        else:
            assert sorted(questions) == sorted(asked)
            assert (questions == asked) == (control != "shuffled-questions")
    config = read(folder / "best/config.json")
    assert config["image_grid"] == 4 and config["vision_config"]["image_size"] == 64


def test_a_run_is_evaluated_again_by_its_name_on_two_processes(run: Run, trained: subprocess.CompletedProcess) -> None:
    before = {name: (run.root / "runs/mini/eval" / name).read_bytes() for name in FILES}
    shutil.copytree(run.root / "runs/mini/best", run.root / "runs/mine/best")
    ended = run(
        "bash", run.root / "eval.sh", "mine", "--data", "data/DRSeg-mini", "--controls", "--overlays", "2", NPROC="2"
    )
    again = run.root / "runs/mine/eval"
    assert {name: (again / name).read_bytes() for name in FILES} == before
    assert len(list((again / "overlays").iterdir())) == 2
    assert ended.stdout in trained.stdout


def test_a_question_about_a_picture_of_the_test_split(run: Run, trained: subprocess.CompletedProcess) -> None:
    """With the released weights' folder as the default model, here filled from the run."""
    shutil.copytree(run.root / "runs/mini/best", run.root / "PixDLM/mini", dirs_exist_ok=True)
    sample = load_dataset(run.root / "data/DRSeg-mini", "test")[0]
    command = [sys.executable, "infer.py", sample.image_path, "--ask", sample.question]
    run(*command, cwd=run.root)
    out = run.root / "runs/infer"
    (answer,) = map(json.loads, (out / "answers.jsonl").read_text().splitlines())
    with Image.open(out / answer["mask"]) as picture:
        mask = np.asarray(picture) > 0
    assert mask.shape == (sample.height, sample.width)
    assert (coco.decode(answer["rle"]).astype(bool) == mask).all()
    assert answer["question"] == sample.question and (out / f"{sample.image_path.stem}.overlay.jpg").is_file()
    if answer["text"] == " ".join(SEG_TOKENS):  # it learnt what an answer is: the mask is the forced one's
        first = records_of(run.root / "runs/mini/eval")["none"][0]
        assert np.mean(coco.decode(first["masks"][0]) == mask) > 0.99
    assert SEG_TOKENS[0] in answer["text"]
