"""utils.evaluation.controls: what is exchanged, and nothing else."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from utils.datasets.base import Sample
from utils.evaluation.controls import (
    BLANK_QUESTION,
    CONTROLS,
    NO_CONTROL,
    SHUFFLED_QUESTIONS,
    SWAPPED_IMAGES,
    applicable_controls,
    asked_questions,
    content_keys,
    other_pictures,
    shuffled_questions,
)


def asked(*questions: str, pictures: list[int] | None = None) -> list[Sample]:
    return [
        Sample(Path(f"{(pictures or range(99))[i]}.jpg"), q, None, (), 9, 9, "drseg", str(i), i)
        for i, q in enumerate(questions)
    ]


def shown(folder: Path, names: str, contents: dict[str, str]) -> list[Sample]:
    """A record for each name, about a file of this name with the content that it has there, else its name."""
    for name in names:
        (folder / name).write_text(contents.get(name, name))
    samples = asked(*(f"question {i}?" for i in range(len(names))))
    return [replace(sample, image_path=folder / name) for sample, name in zip(samples, names, strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_exchanges_every_question(seed: int) -> None:
    samples = asked(*(f"question {i}?" for i in range(20)))
    shuffled = shuffled_questions(samples, seed)
    assert sorted(shuffled) == sorted(one.question for one in samples)
    assert all(before.question != after for before, after in zip(samples, shuffled, strict=True))


def test_shuffling_follows_the_seed() -> None:
    samples = asked(*(f"question {i}?" for i in range(20)))
    orders = [shuffled_questions(samples, seed) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1] and len({tuple(order) for order in orders}) == 3


def test_shuffling_keeps_a_text_only_where_too_many_have_it() -> None:
    generator = random.Random(0)
    for seed in range(200):
        samples = asked(*generator.choices("abcd", weights=[6, 2, 1, 1], k=generator.randint(1, 12)))
        most = max(Counter(one.question for one in samples).values())
        shuffled = shuffled_questions(samples, seed)
        assert Counter(shuffled) == Counter(one.question for one in samples)
        pairs = zip(samples, shuffled, strict=True)
        assert sum(a.question == b for a, b in pairs) == max(0, 2 * most - len(samples))
    assert shuffled_questions([], 0) == []


def test_space_makes_no_other_question() -> None:
    samples = asked("a b?", "a  b?", " a b?\n", "c?", "d?", "e?")
    for seed in range(20):
        shuffled = shuffled_questions(samples, seed)
        assert {one.split()[0] for one in shuffled[:3]} == {"c?", "d?", "e?"}


def test_shuffling_takes_no_longer_than_sorting() -> None:
    distinct = asked(*(f"question {i}?" for i in range(99)))
    few, many = ([distinct[max(i % kinds, 10)] for i in range(100_000)] for kinds in (20, 99))  # a half asks one of few
    for samples in (few, many):
        began = time.process_time()
        shuffled_questions(samples, 0)
        assert time.process_time() - began < 2


def test_what_is_asked_under_each_control() -> None:
    samples = asked("a?", "b?", "c?")
    own = ["a?", "b?", "c?"]
    assert asked_questions(samples, NO_CONTROL, 0) == asked_questions(samples, SWAPPED_IMAGES, 0) == own
    assert asked_questions(samples, SHUFFLED_QUESTIONS, 4) == shuffled_questions(samples, 4) != own
    assert asked_questions(samples, BLANK_QUESTION, 0) == [None] * 3


def test_pictures_are_paired_by_their_order_in_the_split(tmp_path: Path) -> None:
    samples = shown(tmp_path, "abacbdea", {})
    partners = {a.name: b.name for a, b in other_pictures(samples).items()}
    assert partners == {"a": "b", "b": "a", "c": "d", "d": "c", "e": "a"}  # the odd one takes the first
    assert {a.name: b.name for a, b in other_pictures(samples[:4]).items()} == {"a": "b", "b": "a", "c": "a"}


def test_a_picture_under_two_names_is_no_other_picture(tmp_path: Path) -> None:
    same = {"a": "one", "b": "one", "c": "two", "d": "three"}  # of one length, and of another
    keys = content_keys({sample.image_path for sample in shown(tmp_path, "abcd", same)})
    assert [keys[tmp_path / name] == keys[tmp_path / "a"] for name in "abcd"] == [True, True, False, False]
    for names, expected in (("abc", "cca"), ("abcd", "ccdc"), ("acb", "cac"), ("ab", ""), ("a", ""), ("aba", "")):
        partners = other_pictures(shown(tmp_path, names, same))
        assert [partners[tmp_path / name].name for name in names if partners] == list(expected), names


def test_a_control_that_controls_nothing_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    different = shown(tmp_path, "ab", {})
    assert (NO_CONTROL, *applicable_controls(different, 0)) == CONTROLS and not caplog.records
    for questions, why in ((["a?"], "there is one record"), (["a?", " a? "], "all 2 records ask 'a?'")):
        caplog.clear()
        samples = [replace(one, question=q) for one, q in zip(different, questions, strict=False)]
        assert SHUFFLED_QUESTIONS not in applicable_controls(samples, 0)
        assert f"no control shuffled-questions: {why}, so that no other question can be asked" in caplog.text
    caplog.clear()
    one_picture = [replace(one, image_path=different[0].image_path) for one in different]
    assert applicable_controls(one_picture, 0) == (SHUFFLED_QUESTIONS, BLANK_QUESTION)
    assert caplog.messages == ["no control swapped-images: the split shows one picture only"]


def test_questions_that_stay_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = [
        replace(one, question=q) for one, q in zip(shown(tmp_path, "abcd", {}), ["a?", "a?", "a?", "b?"], strict=True)
    ]
    assert applicable_controls(samples, 0) == CONTROLS[1:]
    assert "control shuffled-questions: 2 of 4 records keep their question, since too many ask the same" in caplog.text
