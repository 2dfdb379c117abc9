"""The weights that come with the repository: they fit `mini`, find what is asked for, and need the question."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from pycocotools import mask as coco

from model.checkpoints.layouts import load_config
from model.language.tokens import ADDED_TOKENS
from model.pixdlm import load_model
from model.presets import mini_config
from tests.training import CHECKOUT
from utils.datasets.drseg import SPEC
from utils.datasets.registry import load_dataset
from utils.evaluation import score
from utils.evaluation.controls import NO_CONTROL, SHUFFLED_QUESTIONS
from utils.evaluation.metrics import summarise
from utils.evaluation.predict import Loading, predict
from utils.evaluation.predictions import FILE, Record, read_predictions
from utils.evaluation.protocols import Protocol
from utils.evaluation.scoring import score_records
from utils.mini_drseg.generate import REASONING_TYPES, generate

RELEASED = CHECKOUT / "PixDLM/mini"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 300 drawn questions that training never saw."""
    folder = tmp_path_factory.mktemp("scenes") / "mini"
    generate(folder, {"test": 300}, workers=1, kinds=REASONING_TYPES)
    return folder


@pytest.fixture(scope="module")
def answered(questions: Path) -> dict[str, list[Record]]:
    """The answers to the first 30 questions, asked as they are and shuffled."""
    model, tokenizer = load_model(RELEASED)
    protocol = Protocol(controls=(NO_CONTROL, SHUFFLED_QUESTIONS))
    found: list[Record] = []
    predict(model, tokenizer, load_dataset(questions, "test")[:30], protocol, Loading(), found.extend)
    return {control: [one for one in found if one["control"] == control] for control in protocol.controls}


def score_of(questions: Path, records: list[Record]) -> float:
    """gIoU."""
    samples = load_dataset(questions, "test")[: len(records)]
    scores = [found for found, _, _ in score_records(samples, {one["id"]: one for one in records}, SPEC.scoring())]
    return summarise(scores)["giou"]


@pytest.mark.slow
def test_they_find_what_is_asked_for(questions: Path, answered: dict[str, list[Record]]) -> None:
    assert score_of(questions, answered[NO_CONTROL]) > 0.45  # 0.55 on the whole split


def test_they_need_the_question(questions: Path, answered: dict[str, list[Record]]) -> None:
    assert score_of(questions, answered[SHUFFLED_QUESTIONS]) < score_of(questions, answered[NO_CONTROL]) / 2


def test_their_predictions_are_what_they_answer(answered: dict[str, list[Record]]) -> None:
    """Up to single pixels: another machine may round otherwise."""
    _, shipped = read_predictions(RELEASED / "eval" / FILE)
    for one in answered[NO_CONTROL]:
        (mask,), (expected,) = one["masks"], shipped[NO_CONTROL][one["id"]]["masks"]
        assert coco.iou([mask], [expected], [0]) > 0.98


def test_their_predictions_score_as_their_metrics_say_byte_for_byte(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["score", str(RELEASED / "eval" / FILE), "--data", str(questions), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    score.main()
    assert (tmp_path / "metrics.json").read_bytes() == (RELEASED / "eval/metrics.json").read_bytes()


def test_their_metrics_are_of_these_weights() -> None:
    metrics = json.loads((RELEASED / "eval/metrics.json").read_text())
    weights = RELEASED / "model.safetensors"
    assert metrics["checkpoint"] == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert not metrics["code"].endswith("-dirty")


def test_they_are_of_the_configuration() -> None:
    config = load_config(RELEASED)
    pieces = config.text_config.vocab_size - len(ADDED_TOKENS)
    assert config.to_diff_dict() == mini_config(pieces).to_diff_dict()


def test_their_record_says_how_they_were_made() -> None:
    record = json.loads((RELEASED / "training.json").read_text())
    assert record["settings"]["config"] == "mini" and record["validation"]["overall"]["giou"] > 0.5
    assert sum(file.stat().st_size for file in RELEASED.rglob("*")) < 16e6
