"""Random flips of training pictures, with direction words in their questions swapped.

A common augmentation for referring expressions, off by default: it does harm where pictures contain writing or
have a fixed north, or where questions use these words in other senses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from utils.datasets.base import Flip, Sample
from utils.datasets.loading.sampler import TrainSampler

HORIZONTAL_WORDS = (("left", "right"), ("leftmost", "rightmost"))
VERTICAL_WORDS = (
    ("top", "bottom"),
    ("topmost", "bottommost"),
    ("highest", "lowest"),
    ("upper", "lower"),
    ("above", "below"),
)

Pick = tuple[int, Flip]  # a record's index, and how its picture is flipped


def swap_direction_words(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """The text with each word of a pair replaced by the other; "left" as a verb ("has left", "left the") stays."""
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    words = "|".join(other)
    pattern = rf"(?<!has )(?<!have )(?<!had )\b(?!left (?:the|a|an)\b)({words})\b"

    def swap(match: re.Match[str]) -> str:
        word = other[match[0].lower()]
        return word.capitalize() if match[0][0].isupper() else word

    return re.sub(pattern, swap, text, flags=re.IGNORECASE)


def flip_sample(sample: Sample, flip: Flip) -> Sample:
    """The sample with its texts adapted to the flip; pixels are flipped when they are read."""
    question, answer = sample.question, sample.answer
    for flipped, pairs in zip(flip, (HORIZONTAL_WORDS, VERTICAL_WORDS), strict=True):
        if flipped:
            question = swap_direction_words(question, pairs)
            answer = None if answer is None else swap_direction_words(answer, pairs)
    return replace(sample, question=question, answer=answer, flip=flip)


def flip_array(pixels: np.ndarray, flip: Flip, axes: tuple[int, int]) -> np.ndarray:
    """An array flipped left to right along axes[0] and top to bottom along axes[1], where `flip` says so."""
    along = [axis for flipped, axis in zip(flip, axes, strict=True) if flipped]
    return np.ascontiguousarray(np.flip(pixels, along)) if along else pixels


class FlippedSamples:
    """A split indexed by (record index, flip)."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, pick: Pick) -> Sample:
        index, flip = pick
        return flip_sample(self.samples[index], flip)


class FlipSampler:
    """The batches of a `TrainSampler` with a random flip for each picture, drawn from seed and epoch: the same on
    every rank, and for all records of a picture, which is still encoded once."""

    def __init__(self, sampler: TrainSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[Pick]]:
        generator = self.sampler.epoch_generator()
        drawn = torch.randint(2, (len(self.sampler.groups), 2), generator=generator).bool().tolist()
        flips = {i: tuple(flip) for flip, group in zip(drawn, self.sampler.groups, strict=True) for i in group}
        for batch in self.sampler:
            yield [(index, flips[index]) for index in batch]
