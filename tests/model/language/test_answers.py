"""model.language.answers: what stands before the [SEG] groups of an answer."""

from __future__ import annotations

import pytest

from model.language.answers import answer_words, is_well_formed, split_answer
from model.language.tokens import IGNORE_INDEX, SEG_TOKENS, PixTokenizer

BOTH = "<think> There are two. </think><answer>The red one.</answer>"
GROUP = " ".join(SEG_TOKENS)


def test_parts_of_an_annotated_answer() -> None:
    assert split_answer(BOTH) == ("There are two.", "The red one.")
    assert split_answer("<answer>The red one.</answer>") == (None, "The red one.")
    assert split_answer(" The red one. ") == (None, "The red one.")


def test_words_by_what_is_learnt() -> None:
    assert answer_words(BOTH, "seg") == answer_words(None, "seg") == ""
    assert answer_words(BOTH, "answer") == answer_words("The red one.", "answer") == "<answer>The red one.</answer>"
    assert answer_words(BOTH, "reasoning") == "<think>There are two.</think><answer>The red one.</answer>"


@pytest.mark.parametrize(
    "text",
    [
        "<think>a<answer>b</answer>",
        "<answer>b</answer><think>a</think>",
        "<think>a</think><answer>b</answer> and more",
        "<think>a<think>b</think></think><answer>c</answer>",
        "<answer></answer>",
        "<think>a</think><answer>b </s></answer>",
        "",
    ],
)
def test_what_is_of_no_known_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="answer"):
        split_answer(text)


def test_an_answer_is_well_formed_with_all_parts_in_order() -> None:
    words = "<think> a </think> <answer> b </answer>"
    assert is_well_formed(f"{words} {GROUP}") and is_well_formed(f"{words} {GROUP} {GROUP}")
    for text in (words, GROUP, f"{GROUP} {words}", f"{words} {GROUP} [SEG0]", f"<answer> b </answer> {GROUP}"):
        assert not is_well_formed(text)


@pytest.mark.parametrize(
    "words",
    [
        "<think> </think><answer>b</answer>",
        "<think>a</think><answer></answer>",
        f"<think>a {GROUP}</think><answer>b</answer>",
        f"<think>a</think><answer>b {SEG_TOKENS[0]}</answer>",
        f"<think>a</think>{GROUP}<answer>b</answer>",
        "<think>a<think>b</think><answer>c</answer>",
        "<think>a</think><answer>b<answer>c</answer>",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "<think>a</think><answer>b</answer> and more",
        "a word <think>a</think><answer>b</answer>",
        "<think>a</think><answer>b </s></answer>",
        "plain words",
    ],
)
def test_an_answer_is_not_well_formed_where_its_words_are_not(words: str) -> None:
    assert not is_well_formed(f"{words} {GROUP}")


def test_words_stand_between_question_and_groups_and_are_labelled(tokenizer: PixTokenizer) -> None:
    bare, said = tokenizer.prompt("Which car is red?"), tokenizer.prompt("Which car is red?", words=BOTH)
    opening = tokenizer.prompt("Which car is red?", answered=False).ids
    words = tokenizer.encode(BOTH)[1:]
    assert said.ids == opening + words + bare.ids[len(opening) :]
    assert said.labels == [IGNORE_INDEX] * len(opening) + words + bare.labels[len(opening) :]
    assert tokenizer.prompt("Which car is red?", answered=False, words=BOTH).ids == opening + words
