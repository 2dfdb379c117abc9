"""An answer as JSON for programs, and in words for people."""

from __future__ import annotations

import re
from typing import Any

from model.answering import BROKEN
from model.language.tokens import SEG_TOKENS
from model.segmentation import Segmentation
from utils.inference.results import mask_records

MARK = "▣"  # stands for a [SEG] group
SEG_RUN = re.compile(r"(?:\[SEG\d\]\s*)+")


def answer_json(answer: Segmentation, tolerance: float | None = None) -> dict[str, Any]:
    """One answer as the API gives it.

    Args:
        answer: to one question.
        tolerance: of its polygons, in pixels; None leaves polygons out.
    """
    return {
        "question": answer.question,
        "text": answer.text,
        "status": answer.status,
        "no_target": answer.no_target,
        "masks": mask_records(answer, tolerance),
    }


def readable(text: str) -> str:
    """What the model wrote, with a mark in place of each [SEG] group, of whose tokens a reader has nothing."""

    def marks(run: re.Match[str]) -> str:
        groups = -(-run[0].count("[") // len(SEG_TOKENS))
        return " ".join([MARK] * groups) + " "

    return SEG_RUN.sub(marks, text).strip()


def is_marks(text: str) -> bool:
    """Whether `readable` text has no words."""
    return not text.replace(MARK, "").strip()


def verdict(answer: Segmentation) -> str:
    """What became of a question, in a sentence."""
    count = len(answer.masks)
    if answer.no_target:
        return "Nothing in the picture answers this, says the model."
    if not count:
        return "The model began a mask and did not finish it. Ask in other words."
    if not answer.union.any():
        return "The model marked no pixel."
    marked = f"{answer.union.mean():.1%} of the picture"
    found = f"One mask, {marked}." if count == 1 else f"{count} masks, {marked} together."
    return f"{found} Another one was not finished." if answer.status == BROKEN else found
