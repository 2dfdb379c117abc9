"""utils.demo.answers: an answer for programs and for people."""

from __future__ import annotations

import numpy as np
import pytest

from model.language.tokens import SEG_TOKENS
from model.segmentation import Segmentation
from utils.demo.answers import answer_json, is_marks, readable, verdict

GROUP = " ".join(SEG_TOKENS)


def answered(masks: list[list[list[int]]], status: str = "ok") -> Segmentation:
    found = np.array(masks, bool).reshape(-1, 2, 4)
    count = len(found)
    return Segmentation(found, np.full(count, 0.5, np.float32), np.zeros((count, 4), np.float32), "", 0.5, status, "Q?")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (GROUP, "▣"),
        (f"The bus. {GROUP} {GROUP}", "The bus. ▣ ▣"),
        (f"{GROUP} [SEG0] and a car", "▣ ▣ and a car"),
        ("[SEG0] [SEG1]", "▣"),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_groups_are_one_mark_each(text: str, shown: str) -> None:
    assert readable(text) == shown
    assert is_marks(shown) == (shown.strip("▣ ") == "")


def test_what_became_of_a_question_is_said_in_words() -> None:
    mask, empty = [[1, 0, 0, 0], [0, 0, 0, 1]], [[0] * 4] * 2
    assert verdict(answered([mask])) == "One mask, 25.0% of the picture."
    assert verdict(answered([mask, mask])) == "2 masks, 25.0% of the picture together."
    assert verdict(answered([mask], "broken")) == "One mask, 25.0% of the picture. Another one was not finished."
    assert verdict(answered([empty])) == "The model marked no pixel."
    assert "Nothing in the picture" in verdict(answered([], "no_seg"))
    assert "did not finish" in verdict(answered([], "broken"))


def test_an_empty_mask_has_no_box_and_no_polygons() -> None:
    (mask,) = answer_json(answered([[[0] * 4] * 2]), 0.0)["masks"]
    assert (mask["box"], mask["area"], mask["polygons"]) == (None, 0, [])
