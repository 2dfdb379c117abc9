"""The weights that come with the repository: they fit `mini`, find what is asked for, and need the question."""

from __future__ import annotations

import json

import pytest

from model.checkpoints.layouts import load_config
from model.language.tokens import ADDED_TOKENS
from model.pixdlm import load_model
from model.presets import mini_config
from tests.training import CHECKOUT
from utils.datasets.drseg import SPEC
from utils.datasets.registry import load_dataset
from utils.evaluation.controls import shuffle_questions
from utils.evaluation.metrics import breakdowns
from utils.evaluation.predict import evaluate
from utils.mini_drseg.generate import generate

RELEASED = CHECKOUT / "PixDLM/mini"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """gIoU over 30 questions about drawn scenes that training never saw, asked rightly and swapped."""
    folder = tmp_path_factory.mktemp("scenes") / "mini"
    generate(folder, {"test": 30}, workers=1)
    samples = load_dataset(folder, "test")
    model, tokenizer = load_model(RELEASED)
    asked = {"own": samples, "swapped": shuffle_questions(samples, 0)}
    found = {name: evaluate(model, tokenizer, records, batch_size=16) for name, records in asked.items()}
    return {name: breakdowns([one.score for one in those], SPEC)["overall"]["giou"] for name, those in found.items()}


def test_they_find_what_is_asked_for(scored: dict[str, float]) -> None:
    assert scored["own"] > 0.45  # 0.55 on the whole split


def test_they_need_the_question(scored: dict[str, float]) -> None:
    assert scored["swapped"] < scored["own"] / 2


def test_they_are_of_the_configuration() -> None:
    config = load_config(RELEASED)
    pieces = config.text_config.vocab_size - len(ADDED_TOKENS)
    assert config.to_diff_dict() == mini_config(pieces).to_diff_dict()


def test_their_record_says_how_they_were_made() -> None:
    record = json.loads((RELEASED / "training.json").read_text())
    assert record["settings"]["config"] == "mini" and record["validation"]["overall"]["giou"] > 0.5
    assert sum(file.stat().st_size for file in RELEASED.iterdir()) < 16e6
