"""utils.evaluation.controls: what is exchanged, and nothing else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.inputs.batch import Batch
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample
from utils.evaluation.controls import (
    SHUFFLED_QUESTIONS,
    SWAPPED_IMAGES,
    content_keys,
    controlled_model,
    controlled_samples,
    every_picture_is_swapped,
    shuffle_questions,
)
from utils.runtime.errors import UserError


def asked(*questions: str, pictures: list[int] | None = None) -> list[Sample]:
    return [
        Sample(Path(f"{(pictures or range(99))[i]}.jpg"), q, None, (), 9, 9, "drseg", str(i), i)
        for i, q in enumerate(questions)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_exchanges_every_question_and_nothing_else(seed: int) -> None:
    samples = asked(*(f"question {i}?" for i in range(20)))
    shuffled = shuffle_questions(samples, seed)
    assert sorted(one.question for one in shuffled) == sorted(one.question for one in samples)
    for before, after in zip(samples, shuffled, strict=True):
        assert after.question != before.question
        assert replace(after, question=before.question) == before


def test_shuffling_follows_the_seed() -> None:
    samples = asked(*(f"question {i}?" for i in range(20)))
    orders = [[one.question for one in shuffle_questions(samples, seed)] for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1] and len({tuple(order) for order in orders}) == 3


def test_shuffling_keeps_a_text_only_where_too_many_have_it() -> None:
    generator = random.Random(0)
    for seed in range(200):
        samples = asked(*generator.choices("abcd", weights=[6, 2, 1, 1], k=generator.randint(1, 12)))
        most = max(Counter(one.question for one in samples).values())
        pairs = zip(samples, shuffle_questions(samples, seed), strict=True)
        assert sum(a.question == b.question for a, b in pairs) == max(0, 2 * most - len(samples))


def test_only_the_language_model_is_shown_another_picture(
    tiny_model: PixDLMForCausalLM, collate: Callable[..., Batch]
) -> None:
    batch = collate()
    own = tiny_model.encode_images(batch)
    with controlled_model(tiny_model, SWAPPED_IMAGES):
        swapped = tiny_model.encode_images(batch)
    assert all(torch.equal(one, other) for one, other in zip(own.pyramid, swapped.pyramid, strict=True))
    assert len(own) > 1 and torch.equal(swapped.tokens, own.tokens[[len(own) - 1, *range(len(own) - 1)]])
    with pytest.raises(RuntimeError), controlled_model(tiny_model, SWAPPED_IMAGES):
        raise RuntimeError
    assert torch.equal(tiny_model.encode_images(batch).tokens, own.tokens)


def test_a_control_that_controls_nothing_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    for questions, why in ((["a?"], "there is one record"), (["a?", " a? ", "a?"], "all 3 records ask 'a\\?'")):
        with pytest.raises(UserError, match=f"--control shuffled-questions: {why}"):
            controlled_samples(asked(*questions), SHUFFLED_QUESTIONS, 0, 8)
    assert not caplog.records
    controlled_samples(asked("a?", "a?", "a?", "b?"), SHUFFLED_QUESTIONS, 0, 8)
    assert "2 of 4 records keep their question" in caplog.text


def test_a_picture_under_two_names_is_no_other_picture(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two"), ("d", b"three")):
        (tmp_path / name).write_bytes(content)
    keys = content_keys(set(tmp_path.iterdir()))
    found = [
        every_picture_is_swapped([keys[tmp_path / name] for name in names]) for names in ("a", "ab", "ac", "abc", "acb")
    ]
    assert found == [False, False, True, False, False]
    samples = [replace(one, image_path=tmp_path / name) for one, name in zip(asked(*"1234"), "acbd", strict=True)]
    controlled_samples(samples, SWAPPED_IMAGES, 0, 2)
    with pytest.raises(UserError, match="--batch-size 1 a batch has one picture only, or a copy .*use --batch-size 2"):
        controlled_samples(samples, SWAPPED_IMAGES, 0, 1)
