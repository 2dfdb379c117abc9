"""Answers that the model writes itself, half precision, and options that act in the whole model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from model.inputs.batch import Batch
from model.language.conditioning import base_model
from model.language.tokens import EOS_ID, PAD_ID
from model.losses import LossWeights
from model.pixdlm import PixDLMForCausalLM

Collate = Callable[..., Batch]


@torch.no_grad()
def greedy(model: PixDLMForCausalLM, batch: Batch, limit: int) -> list[int]:
    """One question's answer: a full forward pass for every new token."""
    embeddings, _ = model.embed_prompts(batch, model.encode_images(batch).tokens)
    written: list[int] = []
    while len(written) < limit:
        hidden = base_model(model.language_model)(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        token = int(model.language_model.lm_head(hidden[:, -1]).argmax())
        if token == EOS_ID:
            break
        written.append(token)
        new = base_model(model.language_model).embed_tokens(torch.tensor([[token]]))
        embeddings = torch.cat([embeddings, new], dim=1)
    return written


@pytest.fixture
def writer(tiny_model: PixDLMForCausalLM) -> PixDLMForCausalLM:
    """With weights so large that its answers differ and change from word to word."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in tiny_model.language_model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(torch.randn_like(parameter))
        tiny_model.language_model.lm_head.weight[[PAD_ID, EOS_ID]] = 0.0
    return tiny_model


def test_answers_are_those_of_a_plain_greedy_loop(writer: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(answered=False)
    assert len(set(batch.attention_mask.sum(dim=1).tolist())) > 3  # lengths
    expected = [greedy(writer, collate(number, answered=False), 12) for number in range(11)]
    assert len({tuple(one) for one in expected}) > 3 and len(set(expected[0])) > 3
    assert writer.generate_answers(batch, max_new_tokens=12) == expected


def test_an_answer_ends_at_its_end_token_and_others_go_on(writer: PixDLMForCausalLM, collate: Collate) -> None:
    """The token that the first answer has fourth becomes the end."""
    batch, weight = collate(0, 4, 5, 6, answered=False), writer.language_model.lm_head.weight
    before = writer.generate_answers(batch, max_new_tokens=10)
    end = before[0][3]
    with torch.no_grad():
        weight[EOS_ID] = weight[end]
        weight[end] = 0.0
    written = writer.generate_answers(batch, max_new_tokens=10)
    assert written == [one[: one.index(end)] if end in one else one for one in before]
    assert len(written[0]) <= 3 and max(map(len, written)) == 10


def test_a_model_in_training_writes_without_gradient(writer: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate(0, answered=False)
    expected = writer.generate_answers(batch, max_new_tokens=4)
    writer.train()
    assert writer.generate_answers(batch, max_new_tokens=4) == expected
    assert all(parameter.grad is None for parameter in writer.parameters())


# Half precision


@torch.no_grad()
def test_half_precision_gives_nearly_the_same_masks(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    batch = collate()
    expected = torch.cat(tiny_model(batch).mask_logits)
    found = torch.cat(tiny_model.bfloat16()(batch.to("cpu", torch.bfloat16)).mask_logits)
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().mean() < 0.1 * expected.std()


def test_half_precision_trains(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    expected = tiny_model(collate(), LossWeights()).loss
    output = tiny_model.bfloat16()(collate().to("cpu", torch.bfloat16), LossWeights())
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in tiny_model.parameters() if parameter.grad is not None)


# Options


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
def test_padding_of_questions_acts_only_where_it_is_not_masked(
    tiny_model: PixDLMForCausalLM, collate: Collate, masked: bool
) -> None:
    tiny_model.config.mask_padded_questions = masked
    batch = collate(0, 4)
    assert not batch.question_mask.all()
    masks = tiny_model(batch).mask_logits
    shifts = [
        (tiny_model(collate(number)).mask_logits[0] - mask).abs().max()
        for number, mask in zip((0, 4), masks, strict=True)
    ]
    assert (max(shifts) < 1e-5) == masked


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    tiny_model.train()
    batch, found = collate(0, 4, 5), []
    for switch in (tiny_model.gradient_checkpointing_disable, tiny_model.gradient_checkpointing_enable):
        switch()
        tiny_model.zero_grad()
        tiny_model(batch, LossWeights()).loss.backward()
        found.append({name: p.grad.clone() for name, p in tiny_model.named_parameters() if p.grad is not None})
    assert tiny_model.is_gradient_checkpointing
    torch.testing.assert_close(found[1], found[0])


@torch.no_grad()
@pytest.mark.parametrize("silent", [0, 1])
def test_a_question_without_an_answer_has_no_mask_beside_one_that_has(
    tiny_model: PixDLMForCausalLM, collate: Collate, silent: int
) -> None:
    batch = collate(0, 1)
    batch.input_ids[silent][batch.labels[silent] >= 0] = EOS_ID
    assert [len(masks) for masks in tiny_model(batch).mask_logits] == [0 if i == silent else 1 for i in (0, 1)]


@torch.no_grad()
def test_a_batch_without_targets_has_no_masks(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    """Prompts without an answer have no [SEG] tokens."""
    masks = tiny_model(collate(0, 4, answered=False)).mask_logits
    assert [tuple(mask.shape) for mask in masks] == [(0, 32, 32)] * 2
