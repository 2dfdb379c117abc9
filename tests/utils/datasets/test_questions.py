"""utils.datasets.questions: what only the tokenizer can tell of a record, told when the data are loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from model.config import PixDLMConfig
from model.language.tokens import PixTokenizer
from model.processor import PixDLMProcessor
from utils.datasets.base import BadRecord, Sample
from utils.datasets.questions import check_questions
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError

Make = Callable[..., Any]
THREE = {"questions": ["Which?", "Where?", "Why?"], "answers": [None] * 3, "reasoning_types": [None] * 3}
BAD = [
    ("<image>\nWhich car is red?", "contains the special token '<image>'"),
    ("Which </s>?", "contains the special token '</s>'"),
    ("Which car is red and " * 60, "its prompt has .* tokens, .* fit beside the image; shorten the question"),
]


@pytest.fixture
def processor(tiny_config: PixDLMConfig, tokenizer: PixTokenizer) -> PixDLMProcessor:
    return PixDLMProcessor(tiny_config, tokenizer, truncate=True)


@pytest.mark.parametrize(("question", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_a_record_is_named_by_file_position_and_id_or_left_out_whole(
    make_drseg: Make,
    make_record: Make,
    processor: PixDLMProcessor,
    caplog: pytest.LogCaptureFixture,
    question: str,
    message: str,
) -> None:
    bad = {**THREE, "questions": ["Which?", question, "Why?"]}
    records = [make_record("same"), make_record("same", **bad), make_record("same", **THREE)]
    root = make_drseg(records)
    samples = load_dataset(root, "test")
    with pytest.raises(BadRecord, match=message) as told:
        check_questions(samples, processor)
    assert str(told.value).startswith(f"{root}/labels/DRSeg_test.json: record 1 (id 'same'): ")
    assert "--skip-bad-records" in str(told.value) and len(str(told.value)) < 500
    with caplog.at_level(logging.WARNING):
        kept = check_questions(samples, processor, skip_bad_records=True)
    assert [one.question for one in kept] == ["Which car is red?", "Which?", "Where?", "Why?"]
    assert [one.index for one in kept] == [0, 1, 2, 3] and "1 bad records skipped" in caplog.text
    with pytest.raises(UserError, match="no record can be asked"):
        check_questions(samples[1:4], processor, skip_bad_records=True)


@pytest.mark.parametrize("question", ["half \ud83d of it", "\u200b\u200b", "\x07", "\u3164"])
def test_what_needs_no_tokenizer_is_told_by_the_loader(make_drseg: Make, make_record: Make, question: str) -> None:
    root = make_drseg([make_record("a"), make_record("b", questions=[question])])
    with pytest.raises(BadRecord, match=r"record 1 \(id 'b'\): question 0 .*(shows nothing|half of a character)"):
        load_dataset(root, "test")
    assert [one.record_id for one in load_dataset(root, "test", skip_bad_records=True)] == ["a"]


def test_good_samples_stay_as_they_are_and_each_question_is_looked_at_once(
    make_drseg: Make, make_record: Make, processor: PixDLMProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = load_dataset(make_drseg([make_record(name) for name in "abc"]), "test")
    asked: list[str] = []
    prompt = processor.prompt
    monkeypatch.setattr(processor, "prompt", lambda *given: asked.append(given[0]) or prompt(*given))
    assert check_questions(samples, processor) is samples and asked == ["Which car is red?"]


def test_targets_count_and_so_do_other_wordings(
    make_drseg: Make, make_record: Make, processor: PixDLMProcessor, tokenizer: PixTokenizer
) -> None:
    (one,) = load_dataset(make_drseg([make_record()]), "test")
    processor.max_prompt_tokens = len(tokenizer.prompt(one.question).ids)
    assert check_questions([one], processor) == [one]
    with pytest.raises(BadRecord, match="shorten the question"):
        check_questions([replace(one, targets=one.targets * 2)], processor)

    def longer(sample: Sample) -> list[Sample]:
        return [sample, replace(sample, question=f"{sample.question} Which of all of them is it?")]

    with pytest.raises(BadRecord, match="shorten the question"):
        check_questions([one], processor, variants=longer)


def test_an_answer_that_cannot_be_learnt_is_named(
    make_drseg: Make, make_record: Make, processor: PixDLMProcessor
) -> None:
    (one,) = load_dataset(make_drseg([make_record()]), "test")
    for text, fault in {
        None: "no annotated answer",
        "It is red.": "no reasoning",
        "<think>a</think>b": "not of the form",
        "<think>a</think><answer>[SEG0]</answer>": "special token",
        "<think> </think><answer>b</answer>": "empty part",
    }.items():
        wrong = replace(one, answer=text)
        assert check_questions([wrong], processor) == [wrong]  # [SEG] groups alone do not need it
        with pytest.raises(BadRecord, match=fault):
            check_questions([wrong], processor, answer_format="reasoning")
    said = replace(one, answer="<think>a</think><answer>b</answer>")
    assert check_questions([said], processor, answer_format="reasoning") == [said]
    processor.max_prompt_tokens = len(processor.tokenizer.prompt(one.question).ids)
    with pytest.raises(BadRecord, match="shorten question or answer, or train with a larger max_sequence"):
        check_questions([said], processor, answer_format="reasoning")
