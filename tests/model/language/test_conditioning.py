"""The language side: question features, text conditioning, the image in the prompt, the answer's loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from model.config import PixDLMConfig
from model.language.conditioning import (
    answer_losses,
    condition_on_text,
    insert_image,
    last_hidden_states,
    question_features,
    shift_by_image,
)
from model.language.tokens import IGNORE_INDEX, IMAGE_INDEX


@pytest.fixture
def llama(tiny_config: PixDLMConfig) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config.text_config).eval()


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


# Question features


def test_question_features_are_the_last_hidden_states_without_gradient(llama: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 300, (2, 6))
    features = question_features(llama, ids, mask_of(6, 6))
    torch.testing.assert_close(features, llama(ids, output_hidden_states=True).hidden_states[-1])
    assert not features.requires_grad


def test_padding_changes_no_question_and_has_zero_features(llama: LlamaForCausalLM) -> None:
    ids, mask = torch.randint(3, 300, (3, 9)), mask_of(4, 9, 1)
    batched = question_features(llama, ids.masked_fill(~mask, 0), mask)
    for row, length in enumerate((4, 9, 1)):
        alone = question_features(llama, ids[row : row + 1, :length], mask_of(length))
        torch.testing.assert_close(batched[row : row + 1, :length], alone)
        assert not batched[row, length:].any()


def test_question_features_follow_the_model_as_it_is(llama: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 300, (1, 6))
    before = question_features(llama, ids, mask_of(6))
    with torch.no_grad():
        llama.model.layers[0].self_attn.q_proj.weight.mul_(3)
    assert not torch.allclose(question_features(llama, ids, mask_of(6)), before)


# Text conditioning


def conditioned(tokens: Tensor, question: Tensor) -> Tensor:
    """For one picture and one question, image token by image token."""
    rows = []
    for token in tokens:
        cosine = torch.stack([(token @ word) / (token.norm() * word.norm()).clamp(min=1e-12) for word in question])
        weights = cosine.exp() / cosine.exp().sum()
        rows.append(token + sum(weight * word for weight, word in zip(weights, question, strict=True)))
    return torch.stack(rows)


def test_image_tokens_gain_what_resembles_them() -> None:
    tokens, question = torch.randn(2, 5, 8) * 3, torch.randn(2, 4, 8) * 2
    expected = torch.stack([conditioned(*one) for one in zip(tokens, question, strict=True)])
    torch.testing.assert_close(condition_on_text(tokens, question, mask_of(4, 4)), expected)
    torch.testing.assert_close(condition_on_text(tokens, question, None), expected)


def test_a_mask_leaves_padding_out_and_none_lets_it_take_part() -> None:
    mask = mask_of(2, 4)
    tokens, question = torch.randn(2, 5, 8), torch.randn(2, 4, 8) * mask[..., None]
    masked = condition_on_text(tokens, question, mask)
    torch.testing.assert_close(masked[0], conditioned(tokens[0], question[0, :2]))
    torch.testing.assert_close(masked[1], conditioned(tokens[1], question[1]))
    unmasked = condition_on_text(tokens, question, None)
    torch.testing.assert_close(unmasked[0], conditioned(tokens[0], question[0]))
    assert not torch.allclose(unmasked[0], masked[0], atol=1e-2)


def test_conditioning_keeps_half_precision() -> None:
    tokens, question = torch.randn(1, 5, 8).bfloat16(), torch.randn(1, 4, 8).bfloat16()
    found = condition_on_text(tokens, question, mask_of(4))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found[0].float(), conditioned(tokens[0].float(), question[0].float()), atol=0.1, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("masked", [True, False])
def test_padding_is_no_nan_in_any_precision(dtype: torch.dtype, masked: bool) -> None:
    mask = mask_of(2, 4)
    tokens = torch.randn(2, 5, 8).to(dtype).requires_grad_()
    question = (torch.randn(2, 4, 8) * mask[..., None]).to(dtype)
    found = condition_on_text(tokens, question, mask if masked else None)
    found.sum().backward()
    assert found.isfinite().all() and tokens.grad.isfinite().all()


# The image in the prompt


def test_image_tokens_replace_the_placeholder(llama: LlamaForCausalLM) -> None:
    ids = torch.tensor([[1, 7, IMAGE_INDEX, 8, 9], [1, 5, IMAGE_INDEX, 6, 0]])
    tokens = torch.randn(2, 3, 32)
    embeddings = insert_image(llama, ids, tokens, 2)
    assert tuple(embeddings.shape) == (2, 7, 32)
    table = llama.model.embed_tokens.weight
    for row, (before, after) in enumerate([([1, 7], [8, 9]), ([1, 5], [6, 0])]):
        assert torch.equal(embeddings[row], torch.cat([table[before], tokens[row], table[after]]))


def test_later_positions_move_by_the_image() -> None:
    assert shift_by_image(torch.arange(6), 2, 16).tolist() == [0, 1, 2, 18, 19, 20]
    assert shift_by_image(torch.arange(4), 2, 1).tolist() == [0, 1, 2, 3]


# The answer's loss


def loss_of(llama: LlamaForCausalLM, hidden: Tensor, labels: Tensor, place: int, images: int) -> Tensor:
    row, column = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
    states = torch.stack([row, shift_by_image(column, place, images) - 1])
    return answer_losses(llama, hidden, states, labels[row, column], words=0)[0]


def test_words_and_marks_have_a_mean_of_their_own(llama: LlamaForCausalLM) -> None:
    hidden = torch.randn(1, 6, llama.config.hidden_size)
    states, tokens = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]]), torch.tensor([11, 12, 13, 2])
    each = F.cross_entropy(llama.lm_head(hidden[0, :4]).float(), tokens, reduction="none")
    marks, text = answer_losses(llama, hidden, states, tokens, words=3)
    assert text.item() == pytest.approx(each[:3].mean().item()) and marks.item() == pytest.approx(each[3].item())
    none = answer_losses(llama, hidden, states, tokens, words=0)
    assert none[1].item() == 0 and none[0].item() == pytest.approx(each.mean().item())


def test_the_answers_loss_is_the_cross_entropy_of_all_logits(llama: LlamaForCausalLM) -> None:
    """The plain way: labels around the image, every logit, shifted by one."""
    images, place = 3, 2
    labels = torch.full((2, 9), IGNORE_INDEX)
    labels[0, 5:9], labels[1, 4:6] = torch.tensor([20, 21, 22, 2]), torch.tensor([30, 2])
    hidden = torch.randn(2, 9 + images - 1, 32)
    spread = torch.cat([labels[:, :place], torch.full((2, images), IGNORE_INDEX), labels[:, place + 1 :]], dim=1)
    logits = llama.lm_head(hidden)[:, :-1]
    expected = F.cross_entropy(logits.flatten(0, 1), spread[:, 1:].flatten())
    torch.testing.assert_close(loss_of(llama, hidden, labels, place, images), expected)


def test_the_loss_after_a_real_prompt_is_llamas_own(llama: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 300, (2, 8))
    ids[:, 1] = IMAGE_INDEX
    labels = ids.clone()
    labels[:, :5] = IGNORE_INDEX
    embeddings = insert_image(llama, ids, torch.randn(2, 4, 32), 1)
    hidden = llama.model(inputs_embeds=embeddings).last_hidden_state
    spread = torch.cat([labels[:, :1], torch.full((2, 4), IGNORE_INDEX), labels[:, 2:]], dim=1)
    expected = llama(inputs_embeds=embeddings, labels=spread).loss
    torch.testing.assert_close(loss_of(llama, hidden, labels, 1, 4), expected)


def test_the_loss_of_half_precision_is_taken_in_float32(llama: LlamaForCausalLM) -> None:
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 9]])
    loss = loss_of(llama.bfloat16(), torch.randn(1, 3, 32).bfloat16(), labels, 0, 1)
    assert loss.dtype == torch.float32


def test_nothing_to_score_is_a_loss_of_zero_with_gradients(llama: LlamaForCausalLM) -> None:
    hidden = torch.randn(1, 3, 32, requires_grad=True)
    loss = loss_of(llama, hidden, torch.full((1, 3), IGNORE_INDEX), 0, 1)
    loss.backward()
    assert loss == 0 and not hidden.grad.any() and not llama.lm_head.weight.grad.any()


# Positions


def test_positions_on_the_cpu_change_no_state_and_leave_no_hook(llama: LlamaForCausalLM) -> None:
    embeddings = torch.randn(2, 5, 32)
    expected = llama.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    assert torch.equal(last_hidden_states(llama, embeddings), expected)
    assert not llama.model.rotary_emb._forward_pre_hooks
