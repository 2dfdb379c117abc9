"""The language side: question features, text conditioning, image tokens into the prompt.

Shape legend: Q questions, L prompt tokens, T question tokens, N image tokens, D Llama's width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaModel

from model.language.tokens import IGNORE_INDEX, IMAGE_INDEX, PAD_ID


def base_model(language_model: LlamaForCausalLM) -> LlamaModel:
    """The Llama without its head."""
    return language_model.model


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
    features = base_model(language_model)(input_ids=ids, use_cache=False).last_hidden_state
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


def insert_image(language_model: LlamaForCausalLM, ids: Tensor, tokens: Tensor) -> tuple[Tensor, int]:
    """Prompt embeddings in which the image tokens replace the placeholder.

    Args:
        ids: long[Q, L], IMAGE_INDEX once in every row, at the same position (given by the template).
        tokens: float[Q, N, D]

    Returns:
        float[Q, L + N - 1, D] and the position of the first image token

    Raises:
        ValueError: a row has no placeholder, or at another position.
    """
    found = (ids == IMAGE_INDEX).nonzero()
    if len(found) != len(ids) or (found[:, 1] != found[0, 1]).any():
        raise ValueError("every prompt needs the image placeholder exactly once and at the same position")
    image_start = int(found[0, 1])
    embeddings = base_model(language_model).embed_tokens(ids.masked_fill(ids == IMAGE_INDEX, PAD_ID))
    tokens = tokens.to(embeddings.dtype)
    return torch.cat([embeddings[:, :image_start], tokens, embeddings[:, image_start + 1 :]], dim=1), image_start


def shift_by_image(positions: Tensor, image_start: int, image_tokens: int) -> Tensor:
    """Prompt positions, long, shifted for the image tokens that replaced the placeholder at `image_start`."""
    return positions + (positions > image_start) * (image_tokens - 1)


def answer_loss(
    language_model: LlamaForCausalLM, hidden: Tensor, labels: Tensor, image_start: int, image_tokens: int
) -> Tensor:
    """Cross entropy of the answer, the mean over all scored tokens of the batch.

    Logits are computed at the scored positions alone: about ten of hundreds.

    Args:
        hidden: float[Q, L + N - 1, D], last hidden states.
        labels: long[Q, L], IGNORE_INDEX where nothing is scored.
        image_start: where the image placeholder stood in the prompt.
        image_tokens: N, how many tokens replaced it.
    """
    row, column = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
    states = hidden[row, shift_by_image(column, image_start, image_tokens) - 1]
    return F.cross_entropy(language_model.lm_head(states).float(), labels[row, column])
