"""utils.evaluation.report.words: what controls, statuses and decodings are called."""

from __future__ import annotations

from typing import Any

import pytest

from utils.evaluation.controls import CONTROLS, NO_CONTROL
from utils.evaluation.report.tables import CONTROL
from utils.evaluation.report.words import ANSWER_TITLES, CONTROL_TITLES, SHORT_CONTROL_TITLES, decoding_words
from utils.evaluation.scoring import STATUSES


def test_every_control_and_every_status_has_a_title() -> None:
    assert list(CONTROL_TITLES) == list(SHORT_CONTROL_TITLES) == [one for one in CONTROLS if one != NO_CONTROL]
    assert set(STATUSES) < set(ANSWER_TITLES)
    assert all(len(title) < CONTROL for title in SHORT_CONTROL_TITLES.values())


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        (None, ""),
        ({}, "greedy"),
        ("as they like", "as they like"),
        ({"temperature": 0, "beams": 1, "max_new_tokens": 64}, "greedy, at most 64 tokens"),
        ({"beams": 3, "max_new_tokens": 64}, "3 beams, at most 64 tokens"),
        ({"temperature": 0.5}, "temperature 0.5"),
        ({"temperature": 0.5, "top_p": 0.9, "seed": 0}, "temperature 0.5, top-p 0.9, seed 0"),
    ],
)
def test_decoding_in_words(decoding: Any, said: str) -> None:
    assert decoding_words(decoding) == said
