"""utils.datasets.loading.word_dropout: which prompts go without the words of their answers."""

from __future__ import annotations

from pathlib import Path

import torch

from model.language.answers import REASONING
from utils.cli.train_options import TrainArgs
from utils.datasets.base import Sample, sample_words
from utils.datasets.loading.flips import FlippedSamples, FlipSampler
from utils.datasets.loading.sampler import TrainSampler
from utils.datasets.loading.word_dropout import WordDropoutSampler, WordDropoutSamples
from utils.training.run import training_loader

ANSWER = "<think>It is red.</think><answer>The car.</answer>"


def split(count: int = 960) -> list[Sample]:
    return [Sample(Path(f"{i // 3}.jpg"), "?", ANSWER, (), 9, 9, "drseg", str(i), i) for i in range(count)]


def wordless_of(sampler: TrainSampler, share: float) -> dict[int, bool]:
    return {pick: wordless for batch in WordDropoutSampler(sampler, sampler, share) for pick, wordless in batch}


def test_the_share_is_kept_and_drawn_anew_every_epoch() -> None:
    sampler = TrainSampler(split(), 12, 1, seed=1)
    first = wordless_of(sampler, 0.25)
    assert len(first) == 960 and 0.2 < sum(first.values()) / 960 < 0.3
    assert first == wordless_of(sampler, 0.25)
    assert not any(wordless_of(sampler, 0.0).values()) and all(wordless_of(sampler, 1.0).values())
    sampler.next_pass()
    assert first != wordless_of(sampler, 0.25)


def test_processes_and_resumed_runs_agree() -> None:
    alone = wordless_of(TrainSampler(split(), 12, 1, seed=1), 0.5)
    parts = [wordless_of(TrainSampler(split(), 6, 1, 1, rank, 2), 0.5) for rank in range(2)]
    assert {**parts[0], **parts[1]} == alone
    resumed = TrainSampler(split(), 12, 1, seed=1)
    resumed.skip_to(30)
    rest = wordless_of(resumed, 0.5)
    assert len(rest) == 600 and all(alone[index] == wordless for index, wordless in rest.items())


def test_it_goes_with_flips_and_does_not_follow_them() -> None:
    samples = split()
    sampler = TrainSampler(samples, 12, 1, seed=1)
    flipped = FlipSampler(sampler)
    picks = [pick for batch in WordDropoutSampler(flipped, sampler, 0.5) for pick in batch]
    assert [inner for inner, _ in picks] == [inner for batch in flipped for inner in batch]
    for side in (True, False):
        turned = [wordless for (_, flip), wordless in picks if flip[0] is side]
        assert 0.4 < sum(turned) / len(turned) < 0.6
    drawn = WordDropoutSamples(FlippedSamples(samples))
    assert {drawn[pick].wordless for pick in picks} == {True, False} and len(drawn) == 960


def test_words_of_a_record_drawn_without_are_left_out() -> None:
    samples = WordDropoutSamples(split(2))
    assert sample_words(samples[0, False], REASONING) == "<think>It is red.</think><answer>The car.</answer>"
    assert sample_words(samples[0, True], REASONING) == ""


def test_training_draws_by_the_option() -> None:
    samples = split(12)
    for share, mirror in ((0.0, False), (1.0, False), (1.0, True)):
        args = TrainArgs(words_dropout=share, mirror=mirror, workers=0)
        sampler = TrainSampler(samples, 12, 1, seed=1)
        (batch,) = training_loader(samples, sampler, args, list, torch.device("cpu"))
        assert [one.wordless for one in batch] == [bool(share)] * 12
