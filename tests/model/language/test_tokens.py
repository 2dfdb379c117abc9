"""Ids of the legacy tokenizer, prompts and labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.language.tokens import (
    ADDED_TOKENS,
    BOS_ID,
    EOS_ID,
    IGNORE_INDEX,
    IMAGE_INDEX,
    SEG_TOKENS,
    VICUNA_SYSTEM,
    PixTokenizer,
)
from tests.training import CHECKOUT
from utils.runtime.errors import UserError

QUESTION = "Which car is red?"
GOLDEN = CHECKOUT.parent / "shared" / "golden"


def test_added_tokens_follow_the_vocabulary(tokenizer: PixTokenizer) -> None:
    base = tokenizer.pieces.vocab_size()
    assert len(tokenizer) == base + 15
    assert tokenizer.seg_ids == list(range(base, base + 9))
    assert [tokenizer.special[token] for token in ADDED_TOKENS] == list(range(base, base + 15))
    assert ADDED_TOKENS[9:] == ("<think>", "</think>", "<answer>", "</answer>", "<im_start>", "<im_end>")


def test_text_is_cut_at_special_tokens_and_each_piece_encoded_by_itself(tokenizer: PixTokenizer) -> None:
    encode, special = tokenizer.pieces.encode, tokenizer.special
    assert tokenizer.encode("the road") == [BOS_ID, *encode("the road")]
    expected = [BOS_ID, *encode("the"), special["<im_start>"], IMAGE_INDEX, special["<im_end>"], *encode("road")]
    assert tokenizer.encode("the <im_start><image><im_end>\nroad") == expected
    assert tokenizer.pieces.id_to_piece(expected[-len(encode("road"))]).startswith("▁")  # a blank of its own
    assert tokenizer.encode("[SEG0] [SEG1] </s>") == [BOS_ID, *tokenizer.seg_ids[:2], EOS_ID]
    assert tokenizer.encode("") == [BOS_ID]


def test_white_space_within_a_piece_stays(tokenizer: PixTokenizer) -> None:
    assert tokenizer.encode("the\nroad") == [BOS_ID, *tokenizer.pieces.encode("the\nroad")]
    assert tokenizer.pieces.piece_to_id("<0x0A>") in tokenizer.encode("the\nroad")


def test_what_the_vocabulary_lacks_becomes_bytes(tokenizer: PixTokenizer) -> None:
    ids = tokenizer.encode("汽车")
    assert 0 not in ids and tokenizer.decode(ids) == "汽车"


def test_a_question_has_no_template(tokenizer: PixTokenizer) -> None:
    assert tokenizer.question(f"  {QUESTION}\n") == [BOS_ID, *tokenizer.pieces.encode(QUESTION)]


def test_a_prompt_is_the_conversation_and_scores_the_answer_alone(tokenizer: PixTokenizer) -> None:
    prompt = tokenizer.prompt(QUESTION)
    text = f"Drone pictures. USER: <im_start><image><im_end>\n{QUESTION} ASSISTANT: {' '.join(SEG_TOKENS)}</s>"
    assert prompt.ids == tokenizer.encode(text)
    answer = [*tokenizer.seg_ids, EOS_ID]
    assert prompt.labels == [IGNORE_INDEX] * (len(prompt.ids) - 10) + answer
    assert prompt.ids[-10:] == answer and prompt.ids.count(IMAGE_INDEX) == 1


def test_targets_are_seg_groups_one_after_the_other(tokenizer: PixTokenizer) -> None:
    one, three = tokenizer.prompt(QUESTION), tokenizer.prompt(QUESTION, targets=3)
    assert three.ids == one.ids[:-1] + tokenizer.seg_ids * 2 + [EOS_ID]
    assert three.labels[-28:] == tokenizer.seg_ids * 3 + [EOS_ID]
    assert tokenizer.seg_groups(three.ids) == [
        list(range(len(one.ids) - 10 + 9 * k, len(one.ids) - 1 + 9 * k)) for k in range(3)
    ]


def test_an_unanswered_prompt_ends_before_the_answer(tokenizer: PixTokenizer) -> None:
    opening = tokenizer.prompt(QUESTION, answered=False)
    assert opening.ids == tokenizer.prompt(QUESTION).ids[:-10]
    assert opening.labels == [IGNORE_INDEX] * len(opening.ids)


def test_without_a_system_sentence_the_user_begins(tokenizer_file: Path) -> None:
    bare = PixTokenizer(tokenizer_file, system="")
    ids = bare.prompt(QUESTION).ids
    assert ids[: ids.index(IMAGE_INDEX)] == [BOS_ID, *bare.pieces.encode("USER:"), bare.special["<im_start>"]]


def test_only_whole_seg_groups_count(tokenizer: PixTokenizer) -> None:
    seg = tokenizer.seg_ids
    assert tokenizer.seg_groups([5, *seg, 6, *seg[:8]]) == [list(range(1, 10))]
    assert tokenizer.seg_groups([*seg[:8], *seg]) == [list(range(8, 17))]
    assert tokenizer.seg_groups(seg[::-1]) == tokenizer.seg_groups([]) == []


def test_decoding_gives_the_text_and_names_special_tokens(tokenizer: PixTokenizer) -> None:
    ids = tokenizer.encode(f"<think>the red car</think>{QUESTION} [SEG0]</s>") + [0, 0]
    assert tokenizer.decode(ids) == f"<think> the red car </think> {QUESTION} [SEG0]"
    assert tokenizer.decode([]) == tokenizer.decode([BOS_ID, EOS_ID]) == ""


@pytest.mark.parametrize("token", ["[SEG3]", "<image>", "</s>", "<think>"])
def test_a_question_may_hold_no_special_token(tokenizer: PixTokenizer, token: str) -> None:
    for ask in (tokenizer.question, tokenizer.prompt):
        with pytest.raises(ValueError, match="contains the special token") as caught:
            ask(f"Which {token} is it?")
        assert token in str(caught.value)


def test_an_empty_question_is_an_error(tokenizer: PixTokenizer) -> None:
    for ask in (tokenizer.question, tokenizer.prompt):
        with pytest.raises(ValueError, match="the question is empty"):
            ask(" \n")


def test_a_folder_stands_for_the_file_in_it(tokenizer: PixTokenizer, tokenizer_file: Path) -> None:
    assert PixTokenizer(tokenizer_file.parent).seg_ids == tokenizer.seg_ids


def test_a_file_that_is_missing_or_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.model: no such tokenizer file"):
        PixTokenizer(tmp_path)
    for content in (b"no model", b""):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(UserError, match=r"tokenizer\.model: not a SentencePiece model"):
            PixTokenizer(tmp_path)


@pytest.mark.skipif(not (GOLDEN / "tokenizer.model").is_file(), reason="the golden files are not here")
def test_ids_are_the_golden_ones() -> None:
    golden = PixTokenizer(GOLDEN / "tokenizer.model", VICUNA_SYSTEM)
    assert len(golden) == 32_015 and golden.seg_ids[0] == 32_000
    records = json.loads((GOLDEN / "DRSeg" / "labels" / "DRSeg_test.json").read_text())
    expected = json.loads((GOLDEN / "expected.json").read_text())["samples"]
    for record, one in zip(records, expected, strict=True):
        (question,) = record["questions"]
        prompt = golden.prompt(question)
        assert prompt.ids == one["input_ids"] == golden.encode(one["prompt"])
        assert prompt.labels == one["labels"]
        assert golden.question(question) == one["question_ids"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("\u200b\u200b", r"shows nothing \(U\+200B U\+200B\)"),
        ("\x00\x01\x02\x03\x04", r"shows nothing .*…"),
        ("\u3164", "shows nothing"),
        ("Which \ud83d?", r"holds U\+D83D, which is half of a character"),
        ("caf\udce9?", "the byte 0xE9 that is no UTF-8"),
    ],
)
def test_a_question_must_be_text_that_shows_something(tokenizer: PixTokenizer, question: str, message: str) -> None:
    for ask in (tokenizer.question, tokenizer.prompt):
        with pytest.raises(ValueError, match=message):
            ask(question)


def test_a_tokenizer_is_read_under_any_name(tokenizer_file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "caf\udce9"  # a byte that is no UTF-8
    odd.write_bytes(tokenizer_file.read_bytes())
    assert len(PixTokenizer(odd)) == 335
