"""Answers that a model writes to a batch of questions.

The masks are read off one pass over the whole answer, so that what is written decides and not how it was decoded.

Shape legend: Q questions, K masks of one question, m the side of the mask logits.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.pixdlm import ImageFeatures, PixDLMForCausalLM


@dataclass(frozen=True)
class Answer:
    """An answer to one question.

    Args:
        logits: float[K, m, m], in the network's geometry; K whole [SEG] groups.
        text: the answer, special tokens written out.
    """

    logits: Tensor
    text: str


def written_answers(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    batch: Batch,
    features: ImageFeatures,
    max_new_tokens: int,
) -> list[Answer]:
    """Answers that the model writes by itself, and a mask for each whole [SEG] group in them.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        batch: on the CPU; its prompts end where the model is to go on.
        features: of the pictures.
        max_new_tokens: longer answers are truncated.
    """
    written = model.generate_answers(batch.to(model.device), max_new_tokens, features)
    whole = [whole_groups(tokenizer, ids) for ids in written]
    if any(whole):
        answered = batch.with_answers(whole, model.config)
        masks = model(answered.to(model.device), features=features).mask_logits
    else:  # nothing to read, so no pass
        masks = [features.tokens.new_zeros(0, model.config.mask_size, model.config.mask_size)] * len(written)
    return [Answer(logits, tokenizer.decode(ids)) for logits, ids in zip(masks, written, strict=True)]


def whole_groups(tokenizer: PixTokenizer, written: list[int]) -> list[int]:
    """An answer as it stands in a teacher-forced prompt: up to its last whole [SEG] group, without [SEG] tokens of
    broken ones; nothing where it has no whole group."""
    whole = {position for group in tokenizer.seg_groups(written) for position in group}
    last = max(whole, default=-1)
    return [token for i, token in enumerate(written[: last + 1]) if i in whole or token not in tokenizer.seg_ids]
