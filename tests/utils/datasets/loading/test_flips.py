"""utils.datasets.loading.flips: pictures turned together with their targets and the words of their questions."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.language.tokens import PixTokenizer
from model.masks import IGNORE_LABEL
from model.pixdlm import PixDLMForCausalLM
from utils.datasets.base import Sample
from utils.datasets.loading.collate import Collator
from utils.datasets.loading.flips import (
    FlippedSamples,
    FlipSampler,
    allowed_flips,
    flip_array,
    flip_sample,
)
from utils.datasets.loading.sampler import TrainSampler


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A frame of 8 x 6 with one red pixel in the upper left, which is the target."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[1, 2] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    corner = (2.0, 1.0, 3.0, 1.0, 3.0, 2.0, 2.0, 2.0)
    return Sample(tmp_path / "one.png", "The left one at the top?", "Left.", ((corner,),), 6, 8, "drseg", "1", 0)


@pytest.mark.parametrize(
    ("turn", "place", "question"),
    [
        ((False, False), (1, 2), "The left one at the top?"),
        ((True, False), (1, 5), "The right one at the top?"),
        ((False, True), (4, 2), "The left one at the bottom?"),
        ((True, True), (4, 5), "The right one at the bottom?"),
    ],
)
def test_picture_target_and_question_turn_together(
    tiny_model: PixDLMForCausalLM,
    tokenizer: PixTokenizer,
    sample: Sample,
    turn: tuple[bool, bool],
    place: tuple[int, int],
    question: str,
) -> None:
    flipped_sample = flip_sample(sample, turn)
    assert flipped_sample.question == question
    assert flipped_sample.answer == ("Right." if turn[0] else "Left.")
    batch = Collator(tiny_model.config, tokenizer)([flipped_sample])
    assert batch.masks[0][0].nonzero().tolist() == [list(place)]
    plain = Collator(tiny_model.config, tokenizer)([sample])
    rows, columns = batch.geometries[0].content(batch.sam_pixels.shape[-1])
    along = [axis for turns, axis in zip(turn, (3, 2), strict=True) if turns]
    content = plain.sam_pixels[:, :, :rows, :columns]
    torch.testing.assert_close(batch.sam_pixels[:, :, :rows, :columns], content.flip(along), atol=0.02, rtol=0)
    assert not along or not torch.equal(batch.sam_pixels, plain.sam_pixels)


def test_records_of_a_picture_share_it_only_when_they_are_turned_alike(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, sample: Sample
) -> None:
    samples = [flip_sample(sample, turn) for turn in ((True, False), (False, False), (True, False))]
    batch = Collator(tiny_model.config, tokenizer)(samples)
    assert batch.image_index.tolist() == [0, 1, 0] and len(batch.clip_pixels) == 2


def test_what_is_not_turned_is_not_copied() -> None:
    pixels = np.arange(6).reshape(2, 3)
    assert flip_array(pixels, (False, False), (1, 0)) is pixels
    assert flip_array(pixels, (True, True), (1, 0)).tolist() == [[5, 4, 3], [2, 1, 0]]


def split() -> list[Sample]:
    return [Sample(Path(f"{i // 3}.jpg"), "?", None, (), 9, 9, "drseg", str(i), i) for i in range(96)]


def test_a_pictures_records_are_turned_alike_and_every_epoch_anew() -> None:
    samples = split()
    sampler = TrainSampler(samples, 12, 1, seed=1)
    mirror_sampler = FlipSampler(sampler)
    assert len(mirror_sampler) == len(sampler) == 8
    epochs = []
    for sampler.epoch in range(2):
        picks = [pick for batch in mirror_sampler for pick in batch]
        assert [index for index, _ in picks] == [index for batch in sampler for index in batch]
        by_picture = {index // 3: turn for index, turn in picks}
        assert all(by_picture[index // 3] == turn for index, turn in picks)
        assert len(set(by_picture.values())) == 4  # all four ways
        epochs.append(by_picture)
        again = [pick for batch in mirror_sampler for pick in batch]
        assert again == picks
    assert epochs[0] != epochs[1]
    index, turn = picks[0]
    assert FlippedSamples(samples)[picks[0]] == flip_sample(samples[index], turn)


def test_processes_agree_on_the_mirrors() -> None:
    samples = split()
    alone = list(FlipSampler(TrainSampler(samples, 6, 1, seed=1)))
    parts = [list(FlipSampler(TrainSampler(samples, 3, 1, 1, rank, 2))) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == alone


@pytest.mark.parametrize("turn", [(False, False), (True, False), (False, True), (True, True)])
def test_an_ignore_region_turns_with_its_picture(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, sample: Sample, turn: tuple[bool, bool]
) -> None:
    collator = Collator(tiny_model.config, tokenizer)
    ignoring = replace(sample, ignore=((0.0, 0.0, 2.0, 0.0, 2.0, 3.0, 0.0, 3.0),))
    (plain,), (masks,) = collator([ignoring]).masks, collator([flip_sample(ignoring, turn)]).masks
    assert (plain[0] == IGNORE_LABEL).nonzero().tolist() == [[row, column] for row in range(3) for column in range(2)]
    along = [axis for turns, axis in zip(turn, (2, 1), strict=True) if turns]
    assert torch.equal(masks, plain.flip(along))


@pytest.mark.parametrize(
    ("question", "answer", "allowed"),
    [
        ("Which car is red?", None, (True, True)),
        ("The left car at the top?", "On the right, above the pool.", (True, True)),
        ("The car right behind the bus?", None, (False, True)),
        ("The car on the top floor?", None, (True, False)),
        ("Which car is red?", "The one on the top floor.", (True, False)),
        ("The car on the north side?", None, (False, False)),
    ],
)
def test_a_record_allows_what_is_understood(question: str, answer: str | None, allowed: tuple[bool, bool]) -> None:
    one = Sample(Path("a.jpg"), question, answer, (), 9, 9, "drseg", "a", 0)
    assert allowed_flips(one) == allowed


def test_a_record_that_is_not_understood_keeps_its_picture_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    unclear = {4: "The car right behind the bus?", 7: "The car on the top floor?", 11: "The car at 3 o'clock?"}
    samples = [replace(one, question=unclear.get(one.index, one.question)) for one in split()]
    with caplog.at_level(logging.WARNING):
        sampler = FlipSampler(TrainSampler(samples, 12, 1, seed=1))
    assert "of 32 pictures 2 are not flipped left to right and 2 not top to bottom" in caplog.text
    assert "'The car right behind the bus?'" in caplog.text
    seen: dict[int, set] = {}
    plain = FlipSampler(TrainSampler(split(), 12, 1, seed=1))
    for sampler.sampler.epoch in range(12):
        plain.sampler.epoch = sampler.sampler.epoch
        for (index, turn), (same, drawn) in zip(*(sum(one, []) for one in (sampler, plain)), strict=True):
            seen.setdefault(index // 3, set()).add(turn)
            assert index == same and (turn == drawn or index // 3 in (1, 2, 3))  # the others are drawn as ever
    assert seen[0] == {(a, b) for a in (False, True) for b in (False, True)}
    assert seen[1] == {(False, False), (False, True)}
    assert seen[2] == {(False, False), (True, False)}
    assert seen[3] == {(False, False)}
