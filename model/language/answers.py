"""Answers in words: what a model may write before its [SEG] groups.

An annotated answer is `<think>…</think><answer>…</answer>`, as DRSeg has them, or plain text.
"""

from __future__ import annotations

import re

from model.language.tokens import ADDED_TOKENS, CONTROL_TOKENS, IMAGE_TOKEN, REASONING_TOKENS, SEG_TOKENS

SEG, ANSWER, REASONING = ANSWER_FORMATS = ("seg", "answer", "reasoning")  # groups alone, answer and groups, all three
THINK, THINK_END, ANSWER_START, ANSWER_END = REASONING_TOKENS
ANNOTATED = re.compile(
    rf"\s*(?:{THINK}(?P<think>.*?){THINK_END})?\s*{ANSWER_START}(?P<answer>.*?){ANSWER_END}\s*", re.DOTALL
)
GROUP = r"\s*".join(map(re.escape, SEG_TOKENS))
CLOSING_GROUPS = re.compile(rf"(?:{GROUP}\s*)+\Z")
OTHER_TOKENS = tuple(token for token in (*ADDED_TOKENS, *CONTROL_TOKENS, IMAGE_TOKEN) if token not in REASONING_TOKENS)


def split_answer(text: str) -> tuple[str | None, str]:
    """Reasoning (None where there is none) and answer of an annotated answer; a text without marks is the answer.

    Raises:
        ValueError: the marks are incomplete or out of order, a part is empty, or another special token is in it.
    """
    found = next((token for token in OTHER_TOKENS if token in text), None)
    if found:
        raise ValueError(f"the answer contains the special token {found!r}")
    if not any(mark in text for mark in REASONING_TOKENS):
        think, answer = None, text
    else:
        match = ANNOTATED.fullmatch(text)
        if not match or any(mark in part for part in match.groups() if part for mark in REASONING_TOKENS):
            raise ValueError("the answer is not of the form <think>…</think><answer>…</answer>")
        think, answer = match["think"], match["answer"]
    if not answer.strip() or (think is not None and not think.strip()):
        raise ValueError("the answer has an empty part")
    return think and think.strip(), answer.strip()


def answer_words(text: str | None, answer_format: str) -> str:
    """What stands before the [SEG] groups of an answer.

    Args:
        text: the annotated answer, or None.
        answer_format: one of ANSWER_FORMATS.

    Raises:
        ValueError: there is no answer, no reasoning where it is wanted, or `split_answer` refuses it.
    """
    if answer_format == SEG:
        return ""
    if text is None:
        raise ValueError("there is no annotated answer")
    think, answer = split_answer(text)
    marked = f"{ANSWER_START}{answer}{ANSWER_END}"
    if answer_format == ANSWER:
        return marked
    if think is None:
        raise ValueError("the annotated answer has no reasoning (<think>…</think>)")
    return f"{THINK}{think}{THINK_END}{marked}"


def is_well_formed(text: str) -> bool:
    """Whether a decoded answer is one of reasoning, answer and whole [SEG] groups, in this order and nothing else."""
    groups = CLOSING_GROUPS.search(text)
    if not groups:
        return False
    try:
        think, _ = split_answer(text[: groups.start()])
    except ValueError:
        return False
    return think is not None
