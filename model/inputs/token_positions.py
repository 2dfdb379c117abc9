"""Where things stand in a batch's prompts: indices and sizes that a forward pass needs before it begins.

Found on the CPU, beside the prompts that they are read off. A pass that looked for them on a GPU would make the host
wait for all that the GPU has been given, a dozen times a step.

Shape legend: Q questions, L prompt tokens, M masks, S scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from model.config import PixDLMConfig
from model.language.conditioning import shift_by_image
from model.language.tokens import ADDED_TOKENS, EOS_ID, IGNORE_INDEX, IMAGE_INDEX, SCALES, SEG_TOKENS, TOKENS_PER_SCALE

GROUP = SCALES * TOKENS_PER_SCALE  # [SEG] tokens of a mask


@dataclass(frozen=True, eq=False)
class TokenPositions:
    """Where things stand in prompts, and in the hidden states behind the image tokens that replace the placeholder.

    Args:
        vocabulary: tokens of the model that they were found for.
        image_tokens: of that model, how many replace the placeholder.
        image_start: the placeholder in every prompt, which is where the first image token comes to stand.
        pictures: of each question.
        mask_counts: of each question.
        answers: the scored tokens of each question.
        mask_question: long[M], the question of each mask.
        mask_picture: long[M], its picture.
        seg_states: long[2, M * 9], row and column of the hidden state that predicts each [SEG] token.
        scored_states: long[2, S], of the one that predicts each scored token; words first, then [SEG] and `</s>`.
        scored: long[S], these tokens.
        words: how many of them are words.
    """

    vocabulary: int
    image_tokens: int
    image_start: int
    pictures: list[int]
    mask_counts: list[int]
    answers: list[list[int]]
    mask_question: Tensor
    mask_picture: Tensor
    seg_states: Tensor
    scored_states: Tensor
    scored: Tensor
    words: int

    def each(self, change: Callable[[Tensor], Tensor]) -> TokenPositions:
        """A copy with `change` done to every tensor."""
        tensors = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{name: change(value) for name, value in tensors.items() if isinstance(value, Tensor)})


def find_token_positions(ids: Tensor, labels: Tensor, image_index: Tensor, config: PixDLMConfig) -> TokenPositions:
    """Look for them; a host that has the prompts on a GPU waits for it.

    Args:
        ids: long[Q, L], prompts as in a `Batch`.
        labels: long[Q, L]
        image_index: long[Q]
        config: of the model; tells its vocabulary and the number of image tokens.

    Returns:
        the positions, with tensors on the CPU

    Raises:
        ValueError: a prompt has no image placeholder or has it elsewhere, or its [SEG] tokens are no whole groups.
    """
    ids, labels, image_index = ids.cpu(), labels.cpu(), image_index.cpu()
    image_start = find_placeholder(ids)
    question, column = find_seg_tokens(ids, config.text_config.vocab_size)
    scored_question, scored_column = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
    scored = labels[scored_question, scored_column]
    scored_counts = torch.bincount(scored_question, minlength=len(ids)).tolist()
    is_mark = is_seg_token(scored, config.text_config.vocab_size) | (scored == EOS_ID)
    order = is_mark.int().argsort(stable=True)

    def predicting(row: Tensor, column: Tensor) -> Tensor:
        return torch.stack([row, shift_by_image(column, image_start, config.image_tokens) - 1])

    return TokenPositions(
        vocabulary=config.text_config.vocab_size,
        image_tokens=config.image_tokens,
        image_start=image_start,
        pictures=image_index.tolist(),
        mask_counts=[count // GROUP for count in torch.bincount(question, minlength=len(ids)).tolist()],
        answers=[one.tolist() for one in scored.split(scored_counts)],
        mask_question=question[::GROUP].contiguous(),
        mask_picture=image_index[question[::GROUP]],
        seg_states=predicting(question, column),
        scored_states=predicting(scored_question[order], scored_column[order]),
        scored=scored[order],
        words=int((~is_mark).sum()),
    )


def find_placeholder(ids: Tensor) -> int:
    """Where the image placeholder stands in every prompt of long[Q, L].

    Raises:
        ValueError: a row has none or has it elsewhere.
    """
    found = (ids == IMAGE_INDEX).nonzero()
    if len(found) != len(ids) or (found[:, 1] != found[0, 1]).any():
        raise ValueError("every prompt needs the image placeholder exactly once and at the same position")
    return int(found[0, 1])


def find_seg_tokens(ids: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of all [SEG] tokens in long[Q, L]: long[M * 9] each.

    Raises:
        ValueError: a question's [SEG] tokens are not whole groups of nine.
    """
    row, column = is_seg_token(ids, vocabulary).nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(ids))
    if (counts % GROUP).any():
        raise ValueError(f"the questions have {counts.tolist()} [SEG] tokens, which are no whole groups of {GROUP}")
    return row, column


def is_seg_token(ids: Tensor, vocabulary: int) -> Tensor:
    """Which of the ids, long[…], are [SEG] tokens: bool[…]."""
    first = vocabulary - len(ADDED_TOKENS)
    return (ids >= first) & (ids < first + len(SEG_TOKENS))
