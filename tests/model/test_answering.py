"""model.answering: which masks an answer has, forced or written, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from model.answering import (
    BROKEN,
    NO_SEG,
    OK,
    Answer,
    forced_answer,
    forced_answers,
    status_of,
    whole_groups,
    words_before_groups,
    written_answers,
)
from model.inputs.batch import Batch
from model.language.tokens import EOS_ID, PixTokenizer
from model.pixdlm import PixDLMForCausalLM, PixDLMOutput

Collate = Callable[..., Batch]


def written(tokenizer: PixTokenizer, text: str) -> list[int]:
    """Ids of an answer in which "w" stands for a word, "s" for a whole [SEG] group and "-" for its first token."""
    ids = {"w": tokenizer.pieces.encode("car"), "s": tokenizer.seg_ids, "-": tokenizer.seg_ids[:1]}
    return [one for letter in text for one in ids[letter]]


@pytest.mark.parametrize(
    ("text", "status", "read", "before"),
    [
        ("", NO_SEG, "", ""),
        ("ww", NO_SEG, "", "ww"),
        ("s", OK, "s", ""),
        ("wsws", OK, "wsws", "w"),
        ("wsw", OK, "ws", "w"),
        ("w-", BROKEN, "", "w"),
        ("w-s", BROKEN, "ws", "w"),
        ("s-ws", BROKEN, "sws", ""),
        ("ss-", BROKEN, "ss", ""),
    ],
)
def test_what_is_read_of_an_answer(tokenizer: PixTokenizer, text: str, status: str, read: str, before: str) -> None:
    ids = written(tokenizer, text)
    assert status_of(tokenizer, ids) == status
    assert whole_groups(tokenizer, ids) == written(tokenizer, read)
    assert words_before_groups(tokenizer, ids) == written(tokenizer, before)


@torch.no_grad()
def answers(model: PixDLMForCausalLM, tokenizer: PixTokenizer, batch: Batch, *texts: str) -> list[Answer]:
    ids = [written(tokenizer, text) for text in texts]
    return written_answers(model, tokenizer, batch, model.encode_images(batch), ids)


def test_written_answers_have_a_mask_for_each_whole_group(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, collate: Collate
) -> None:
    batch, side = collate(0, 3, 4, 5, answered=False), tiny_model.config.mask_size
    found = answers(tiny_model, tokenizer, batch, "ww", "wss", "-s", "")
    assert [one.status for one in found] == [NO_SEG, OK, BROKEN, NO_SEG]
    assert [one.logits.shape for one in found] == [(count, side, side) for count in (0, 2, 1, 0)]
    assert found[0].text == "car car" and found[1].text.startswith("car [SEG0] [SEG1]") and found[3].text == ""
    silent = answers(tiny_model, tokenizer, batch, "w", "", "-", "w-")
    assert [one.logits.shape for one in silent] == [(0, side, side)] * 4


@torch.no_grad()
def test_words_before_a_group_change_its_mask_and_broken_groups_do_not(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, collate: Collate
) -> None:
    batch = collate(0, 0, 0, answered=False)
    plain, after_words, after_broken = (one.logits for one in answers(tiny_model, tokenizer, batch, "s", "wws", "-s"))
    assert (plain - after_words).abs().max() > 1e-3
    torch.testing.assert_close(plain, after_broken)


@torch.no_grad()
def test_forced_answers_have_as_many_masks_as_targets_whatever_is_written(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, collate: Collate
) -> None:
    batch = collate(0, 3, 4, answered=False)
    features = tiny_model.encode_images(batch)
    found = forced_answers(tiny_model, tokenizer, batch, [1, 2, 0], features)
    assert [len(one.logits) for one in found] == [1, 2, 0] and {one.status for one in found} == {OK}
    torch.testing.assert_close(found[0].logits, answers(tiny_model, tokenizer, batch, "s", "", "")[0].logits)
    said = [written(tokenizer, text) for text in ("ww", "ws-", "sss")]
    worded = forced_answers(tiny_model, tokenizer, batch, [1, 2, 0], features, said)
    assert [len(one.logits) for one in worded] == [1, 2, 0]
    for own, text in zip(worded, ("wws", "wss", ""), strict=True):  # its words alone, then the groups that are forced
        assert own.text == tokenizer.decode(written(tokenizer, text))
    expected = answers(tiny_model, tokenizer, batch, "wws", "wss", "")
    for own, one in zip(worded, expected, strict=True):
        torch.testing.assert_close(own.logits, one.logits)


@torch.no_grad()
@pytest.mark.parametrize("spare", [-3, 0, 1, 2, 9])
def test_words_are_cut_where_forced_groups_would_leave_the_context(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, collate: Collate, spare: int
) -> None:
    """`spare` is how many tokens the context holds beyond prompt, five words and a group."""
    batch, said = collate(0, answered=False), written(tokenizer, "w") * 5
    length = int(batch.attention_mask.sum()) + tiny_model.config.image_tokens - 1
    features, lengths = tiny_model.encode_images(batch), []
    tiny_model.config.text_config.max_position_embeddings = length + len(said) + len(tokenizer.seg_ids) + spare

    def run(answered: Batch) -> PixDLMOutput:
        lengths.append(answered.input_ids.shape[1] + tiny_model.config.image_tokens - 1)
        return tiny_model(answered, features=features)

    (found,) = forced_answers(tiny_model, tokenizer, batch, [1], features, [said], run)
    assert lengths[0] == length + len(said) + len(tokenizer.seg_ids) + min(spare, 1)  # and `</s>` where it fits
    assert found.text == tokenizer.decode(said[: len(said) + min(spare, 0)] + tokenizer.seg_ids)
    assert len(found.logits) == 1


def test_groups_are_never_cut() -> None:
    assert forced_answer([5, 6, 7], [8, 9], 6) == [5, 6, 7, 8, 9, EOS_ID]
    for room, expected in ((5, [5, 6, 7, 8, 9]), (3, [5, 8, 9]), (2, [8, 9]), (1, [8, 9]), (-1, [8, 9])):
        assert forced_answer([5, 6, 7], [8, 9], room) == expected
