"""utils.evaluation.protocols: what stands in prompts, what is written, and what results say of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.answering import Answer
from model.inputs.batch import Batch
from model.language.decoding import Decoding
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.evaluation.protocols import (
    FORCED,
    GENERATE,
    GIVEN_REASONING,
    KINDS,
    NO_REASONING,
    OWN_REASONING,
    REASONINGS,
    Protocol,
    answer_batch,
    protocol_of,
)


def test_the_published_protocol_is_the_default_and_writes_nothing() -> None:
    assert Protocol().described() == {
        "kind": "forced",
        "reasoning": "none",
        "uses_ground_truth_text": False,
        "decoding": None,
    }
    assert Protocol().controls == ("none",)


def test_who_writes_and_who_reads_ground_truth() -> None:
    writing = {(kind, reasoning) for kind in KINDS for reasoning in REASONINGS if Protocol(kind, reasoning).writes}
    assert writing == {(FORCED, OWN_REASONING), *((GENERATE, reasoning) for reasoning in REASONINGS)}
    reading = {r for r in REASONINGS if Protocol(reasoning=r).described()["uses_ground_truth_text"]}
    assert reading == {GIVEN_REASONING}


@pytest.mark.parametrize(("trained", "given"), [("seg", "reasoning"), ("answer", "answer"), ("reasoning", "reasoning")])
def test_words_of_the_data_set_are_in_prompts_only_where_they_are_given(trained: str, given: str) -> None:
    found = {reasoning: Protocol(reasoning=reasoning).answer_format(trained) for reasoning in REASONINGS}
    assert found == {NO_REASONING: "seg", OWN_REASONING: "seg", GIVEN_REASONING: given}


def test_only_own_reasoning_may_be_written() -> None:
    for reasoning in REASONINGS:
        decoding = protocol_of(GENERATE, reasoning, Decoding(9, reasoning=True), ("none",), 3).decoding
        assert decoding == Decoding(9, reasoning=reasoning == OWN_REASONING)


def test_decoding_is_described_with_the_seed_where_it_is_sampled() -> None:
    greedy = Protocol(GENERATE, decoding=Decoding(9), seed=4).described()["decoding"]
    assert greedy == {
        **{"max_new_tokens": 9, "temperature": 0.0, "top_p": 1.0, "beams": 1, "reasoning": True, "seed": None}
    }
    sampled = Protocol(GENERATE, decoding=Decoding(9, temperature=0.5), seed=4).described()["decoding"]
    assert (sampled["temperature"], sampled["seed"]) == (0.5, 4)


def test_controls_come_after_none() -> None:
    protocol = Protocol(seed=3)
    assert protocol.with_controls(("blank-question",)) == Protocol(controls=("none", "blank-question"), seed=3)


@torch.no_grad()
@pytest.mark.parametrize(
    ("protocol", "masks"),
    [(Protocol(FORCED), [2, 1]), (Protocol(FORCED, OWN_REASONING), [2, 1]), (Protocol(GENERATE), [0, 1])],
)
def test_targets_decide_how_many_masks_there_are_or_what_was_written(
    tiny_model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    collate: Callable[..., Batch],
    protocol: Protocol,
    masks: Any,
) -> None:
    batch = collate(0, 3, answered=False)
    car = tokenizer.pieces.encode("car")
    written = [car, [*car, *tokenizer.seg_ids, *car]] if protocol.writes else None
    features = tiny_model.encode_images(batch)
    found: list[Answer] = answer_batch(tiny_model, tokenizer, protocol, batch, [2, 1], features, written)
    assert [len(one.logits) for one in found] == masks
    assert ["car" in one.text for one in found] == [protocol.writes] * 2
    assert found[1].text.endswith("car") == (protocol.kind == GENERATE)
