"""utils.demo.service: what a request holds in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from model.segmentation import Segmentation
from model.segmenter import PixDLM
from utils.demo.service import Service


def test_masks_of_one_question_at_a_time_are_held(
    make_service: Callable[..., Service], picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, made, alive = PixDLM.segment, [], []

    def counted(self: PixDLM, *given: object) -> Segmentation:
        alive.append(sum(one() is not None for one in made))
        answer = segment(self, *given)
        made.append(weakref.ref(answer))
        return answer

    monkeypatch.setattr(PixDLM, "segment", counted)
    questions = ["Mark the yellow car.", "What is the road?", "Where is grass?"]
    found = make_service().segment(picture.read_bytes(), questions, None).result.result(timeout=120)
    assert [one["question"] for one in found["answers"]] == questions and alive == [0, 0, 0]
