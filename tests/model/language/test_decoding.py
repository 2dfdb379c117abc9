"""model.language.decoding: settings that cannot be, and what they make transformers' `generate` do."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch

from model.inputs.batch import Batch
from model.language.decoding import Decoding
from model.language.tokens import EOS_ID, PAD_ID, PixTokenizer
from model.pixdlm import PixDLMForCausalLM

Collate = Callable[..., Batch]


@pytest.mark.parametrize(
    "given",
    [
        *({"max_new_tokens": 0}, {"beams": 0}, {"temperature": -0.1}, {"temperature": nan}, {"temperature": inf}),
        *({"top_p": 0.0}, {"top_p": 1.1}, {"top_p": nan, "temperature": 1.0}, {"top_p": 0.9}),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Decoding(**given)


def test_greedy_is_the_default_and_samples_nothing() -> None:
    assert Decoding().options([5]) == {"do_sample": False, "num_beams": 1}
    sampled = Decoding(temperature=0.5, top_p=0.9, reasoning=False).options([5, 6])
    assert sampled == {
        **{"do_sample": True, "num_beams": 1, "temperature": 0.5, "top_p": 0.9, "top_k": 0, "suppress_tokens": [5, 6]}
    }


@pytest.fixture
def wordy(tiny_model: PixDLMForCausalLM) -> PixDLMForCausalLM:
    """With a head so large that likeliest tokens are far ahead of others, and no end."""
    torch.manual_seed(4)
    with torch.no_grad():
        head = tiny_model.language_model.lm_head.weight
        head.copy_(torch.randn_like(head) * 3)
        head[[PAD_ID, EOS_ID]] = 0.0
    return tiny_model


def test_no_reasoning_is_written_where_it_is_excluded(
    wordy: PixDLMForCausalLM, tokenizer: PixTokenizer, collate: Collate
) -> None:
    batch, think = collate(0, 3, answered=False), tokenizer.reasoning_ids
    likeliest = wordy.generate_answers(batch, Decoding(1), None, think)[0][0]
    head = wordy.language_model.lm_head.weight
    with torch.no_grad():
        head[think[0]], head[likeliest] = head[likeliest].clone(), 0.0
    assert wordy.generate_answers(batch, Decoding(1), None, think)[0] == think[:1]
    found = wordy.generate_answers(batch, Decoding(6, reasoning=False), None, think)
    assert not {token for one in found for token in one} & set(think) and len(found[0]) == 6


def test_sampling_varies_with_the_seed_and_narrows_to_the_likeliest(wordy: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(0, 3, answered=False)
    greedy = wordy.generate_answers(batch, Decoding(8))

    def sampled(seed: int, **settings: float) -> list[list[int]]:
        torch.manual_seed(seed)
        return wordy.generate_answers(batch, Decoding(8, **settings))

    hot = [sampled(seed, temperature=20.0) for seed in (0, 0, 1)]
    assert hot[0] == hot[1] != hot[2] and hot[0] != greedy
    assert sampled(0, temperature=20.0, top_p=1e-6) == greedy == sampled(0, temperature=1e-4)


def test_beams_find_an_answer_at_least_as_likely(wordy: PixDLMForCausalLM, collate: Collate) -> None:
    with torch.no_grad():
        wordy.language_model.lm_head.weight /= 30  # so flat that the greedy answer is not the likeliest
    found = []
    for number in range(4):
        batch = collate(number, answered=False)
        for beams in (1, 6):
            (written,) = wordy.generate_answers(batch, Decoding(6, beams=beams))
            found.append((log_likelihood(wordy, batch, written), written))
    pairs = list(zip(found[::2], found[1::2], strict=True))
    assert all(beam[0] >= greedy[0] - 1e-4 for greedy, beam in pairs)
    assert any(beam[0] > greedy[0] + 1e-4 for greedy, beam in pairs)


@torch.no_grad()
def log_likelihood(model: PixDLMForCausalLM, batch: Batch, written: list[int]) -> float:
    """Of an answer after a batch's only prompt."""
    prompt, _ = model.embed_prompts(batch, model.encode_images(batch).tokens)
    ids = torch.tensor([written])
    embedded = model.language_model.get_input_embeddings()(ids)
    logits = model.language_model(inputs_embeds=torch.cat([prompt, embedded], dim=1)).logits[
        :, prompt.shape[1] - 1 : -1
    ]
    return logits.log_softmax(-1).gather(2, ids[..., None]).sum().item()
