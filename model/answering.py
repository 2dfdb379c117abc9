"""Answers to a batch of questions: with [SEG] groups that are forced, or those that the model writes by itself.

Both read the masks off one pass over the whole answer, so that what is written decides and not how it was decoded.

Shape legend: Q questions, K masks of one question, m the side of the mask logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from model.inputs.batch import Batch
from model.language.decoding import Decoding
from model.language.tokens import EOS_ID, PixTokenizer
from model.pixdlm import ImageFeatures, PixDLMForCausalLM

OK, NO_SEG, BROKEN = STATUSES = ("ok", "no_seg", "broken")


@dataclass(frozen=True)
class Answer:
    """An answer to one question.

    Args:
        logits: float[K, m, m], in the network's geometry; K whole [SEG] groups.
        text: the answer, special tokens written out.
        status: "ok"; "no_seg" where it has no [SEG] token; "broken" where one stands outside a whole group.
    """

    logits: Tensor
    text: str
    status: str


def write_answers(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    batch: Batch,
    features: ImageFeatures,
    decoding: Decoding,
    heard: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """What the model writes to each question, as token ids; `heard` as in `generate_answers`, other arguments as for
    `written_answers`."""
    return model.generate_answers(batch.to(model.device), decoding, features, tokenizer.reasoning_ids, heard)


def forced_answers(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    batch: Batch,
    groups: list[int],
    features: ImageFeatures | None,
    written: list[list[int]] | None = None,
    run: Callable[[Batch], Any] | None = None,
) -> list[Answer]:
    """Answers with so many [SEG] groups, teacher-forced.

    Args:
        model: in evaluation mode; the batch may be on the CPU.
        tokenizer: of the model.
        batch: its prompts end before the [SEG] groups.
        groups: in the answer to each question.
        features: of the pictures.
        written: what the model writes to each question; its words, up to the first [SEG] token, stand before the
            groups, cut where these would leave the language model's context.
        run: called instead of the model, with pixels in the batch and no features (DeepSpeed's engine, where it
            shards).
    """
    words = [words_before_groups(tokenizer, ids) for ids in written or [[]] * len(groups)]
    # The placeholder makes way for the image tokens.
    longest = model.config.text_config.max_position_embeddings - (model.config.image_tokens - 1)
    rooms = (longest - batch.attention_mask.sum(dim=1)).tolist()
    asked = zip(words, groups, rooms, strict=True)
    answers = [forced_answer(said, tokenizer.seg_ids * count, room) for said, count, room in asked]
    moved = batch.with_answers(answers, model.config).to(model.device)
    masks = (run(moved) if run else model(moved, features=features)).mask_logits
    return [Answer(logits, tokenizer.decode(ids), OK) for logits, ids in zip(masks, answers, strict=True)]


def forced_answer(words: list[int], groups: list[int], room: int) -> list[int]:
    """Words, [SEG] groups and `</s>` in `room` tokens: words are cut off, as those of written answers are, and
    `</s>`, as that of teacher-forced prompts is; groups never."""
    said = words[: max(room - len(groups), 0)]
    return [*said, *groups, *([EOS_ID] if len(said) + len(groups) < room else [])]


def written_answers(
    model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    batch: Batch,
    features: ImageFeatures,
    written: list[list[int]],
) -> list[Answer]:
    """Answers that the model has written by itself, with a mask for each whole [SEG] group in them.

    Args:
        written: from `write_answers`; other arguments as for `forced_answers`.
    """
    answered = batch.with_answers([whole_groups(tokenizer, ids) for ids in written], model.config)
    masks = model(answered.to(model.device), features=features).mask_logits
    return [
        Answer(logits, tokenizer.decode(ids), status_of(tokenizer, ids))
        for logits, ids in zip(masks, written, strict=True)
    ]


def status_of(tokenizer: PixTokenizer, written: list[int]) -> str:
    """The status of an answer, see `Answer`."""
    tokens = sum(token in tokenizer.seg_ids for token in written)
    if not tokens:
        return NO_SEG
    return OK if tokens == len(tokenizer.seg_ids) * len(tokenizer.seg_groups(written)) else BROKEN


def words_before_groups(tokenizer: PixTokenizer, written: list[int]) -> list[int]:
    """What an answer says before its first [SEG] token."""
    first = next((i for i, token in enumerate(written) if token in tokenizer.seg_ids), len(written))
    return written[:first]


def whole_groups(tokenizer: PixTokenizer, written: list[int]) -> list[int]:
    """An answer as it stands in a teacher-forced prompt: up to its last whole [SEG] group, without [SEG] tokens of
    broken ones; nothing where it has no whole group."""
    whole = {position for group in tokenizer.seg_groups(written) for position in group}
    last = max(whole, default=-1)
    return [token for i, token in enumerate(written[: last + 1]) if i in whole or token not in tokenizer.seg_ids]
