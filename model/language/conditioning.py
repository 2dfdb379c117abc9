"""The language side: question features, text conditioning, image tokens into the prompt.

Shape legend: Q questions, L prompt tokens, T question tokens, N image tokens, D Llama's width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import LlamaForCausalLM, LlamaModel

from model.language.tokens import IMAGE_INDEX, PAD_ID


def base_model(language_model: LlamaForCausalLM) -> LlamaModel:
    """The Llama without its head."""
    return language_model.model


def last_hidden_states(language_model: LlamaForCausalLM, embeddings: Tensor) -> Tensor:
    """Of sequences that all begin at position 0, without padding on the left: float[Q, L, D] -> float[Q, L, D]

    transformers reads the positions to see whether sequences are packed into one another, and flash-attn's side of
    it does so in every layer where Q is 1. They stay on the CPU until then, or a GPU's host would wait each time.
    """
    llama = base_model(language_model)
    positions = torch.arange(embeddings.shape[1], device="cpu")[None]
    with llama.rotary_emb.register_forward_pre_hook(_bring_positions, with_kwargs=True):
        return llama(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state


def _bring_positions(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Before the rotary embedding: its positions to where its first argument is."""
    return tree_map_only(Tensor, lambda given: given.to(args[0].device, non_blocking=True), (args, kwargs))


@torch.no_grad()
def question_features(language_model: LlamaForCausalLM, ids: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states of the bare questions, computed with the language model's current weights.

    Right padding under causal attention changes no real token, so a batch gives what each
    question gives by itself; rows of padding are zero.

    Args:
        ids: long[Q, T], right-padded.
        mask: bool[Q, T], true at tokens.

    Returns:
        float[Q, T, D], without gradient (published behaviour)
    """
    features = last_hidden_states(language_model, base_model(language_model).embed_tokens(ids))
    return features * mask[..., None]


def condition_on_text(tokens: Tensor, question: Tensor, mask: Tensor | None) -> Tensor:
    """Add to each image token the question features that resemble it most.

    Weights are the softmax over the question's tokens of the cosine similarity, without temperature.

    Args:
        tokens: float[Q, N, D]
        question: float[Q, T, D], zero at padding.
        mask: bool[Q, T] leaves padding out; None lets its zero rows take part (published behaviour).

    Returns:
        float[Q, N, D]
    """
    # in float32: normalize's eps, the divisor of all-zero padding, underflows in fp16
    similarity = F.normalize(tokens.float(), dim=-1) @ F.normalize(question.float(), dim=-1).transpose(1, 2)
    if mask is not None:
        similarity = similarity.masked_fill(~mask[:, None], float("-inf"))
    return tokens + similarity.softmax(dim=-1).to(question.dtype) @ question


def insert_image(language_model: LlamaForCausalLM, ids: Tensor, tokens: Tensor, image_start: int) -> Tensor:
    """Prompt embeddings in which the image tokens replace the placeholder: float[Q, L + N - 1, D]

    Args:
        ids: long[Q, L], IMAGE_INDEX once in every row, at `image_start` (given by the template).
        tokens: float[Q, N, D]
        image_start: the position of the placeholder (`model.inputs.token_positions`).
    """
    embeddings = base_model(language_model).embed_tokens(ids.masked_fill(ids == IMAGE_INDEX, PAD_ID))
    tokens = tokens.to(embeddings.dtype)
    return torch.cat([embeddings[:, :image_start], tokens, embeddings[:, image_start + 1 :]], dim=1)


def shift_by_image(positions: Tensor, image_start: int, image_tokens: int) -> Tensor:
    """Prompt positions, long, shifted for the image tokens that replaced the placeholder at `image_start`."""
    return positions + (positions > image_start) * (image_tokens - 1)


def answer_losses(
    language_model: LlamaForCausalLM, hidden: Tensor, states: Tensor, tokens: Tensor, words: int
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the answer's marks ([SEG] tokens and `</s>`) and of its words: the means over all such tokens
    of the batch; zero without any.

    Logits are computed at the scored positions alone: about ten of hundreds.

    Args:
        hidden: float[Q, L + N - 1, D], last hidden states.
        states: long[2, S], row and column of those that predict the scored tokens.
        tokens: long[S], these; words first.
        words: how many of them are words.
    """
    row, column = states
    logits = language_model.lm_head(hidden[row, column]).float()
    parts = (logits[words:], tokens[words:]), (logits[:words], tokens[:words])
    # a sum over none is a zero that reaches every parameter: other ranks may have some
    marks, text = (F.cross_entropy(one, of) if len(of) else one.sum() for one, of in parts)
    return marks, text
