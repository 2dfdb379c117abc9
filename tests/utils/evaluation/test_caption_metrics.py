"""utils.evaluation.caption_metrics: METEOR and CIDEr, which need a package and Java that need not be there."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from utils.evaluation import caption_metrics
from utils.evaluation.caption_metrics import caption_scores, missing_for_captions

REFERENCES = {"a": "A red car stands on the road.", "b": "Two boats lie in\nthe small harbour."}


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_metrics, "find_spec", lambda name: None)
    monkeypatch.setattr(caption_metrics.shutil, "which", lambda name: None)
    assert missing_for_captions() == (
        "METEOR and CIDEr are left out: the package pycocoevalcap (pip install pycocoevalcap) and Java, which its "
        "tokenizer and METEOR run in missing"
    )
    monkeypatch.setattr(caption_metrics.shutil, "which", lambda name: "/usr/bin/java")
    assert missing_for_captions().endswith("the package pycocoevalcap (pip install pycocoevalcap) missing")
    monkeypatch.setattr(caption_metrics, "find_spec", lambda name: SimpleNamespace())
    assert missing_for_captions() == ""


def test_both_sides_are_tokenized_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tokenizer:
        def tokenize(self, captions: dict[str, Any]) -> dict[str, list[str]]:
            return {key: [one["caption"].lower() for one in captions[key]] for key in captions}

    class Scorer:
        def compute_score(self, truth: Any, answers: Any) -> tuple[float, list[float]]:
            assert truth["b"] == ["two boats lie in the small harbour."]  # a line each
            return sum(truth[key] == answers[key] for key in truth) / 2, []

    modules = {"tokenizer.ptbtokenizer": ("PTBTokenizer", Tokenizer), "meteor.meteor": ("Meteor", Scorer)}
    for name, (inside, fake) in (modules | {"cider.cider": ("Cider", Scorer)}).items():
        module = ModuleType(name)
        setattr(module, inside, fake)
        monkeypatch.setitem(sys.modules, f"pycocoevalcap.{name}", module)
    assert caption_scores(REFERENCES, {**REFERENCES, "a": ""}) == {"meteor": 0.5, "cider": 0.5}


@pytest.mark.skipif(missing_for_captions() != "", reason=missing_for_captions())
def test_an_equal_description_scores_highest_and_an_empty_one_nothing() -> None:
    found = caption_scores(REFERENCES, {"a": REFERENCES["a"], "b": ""})
    assert found["cider"] == pytest.approx((10 + 0) / 2)  # the mean over pictures; 10 is its highest
    assert 0.3 < found["meteor"] < 0.9
