"""Random flips of training pictures, with direction words in their questions swapped.

A common augmentation for referring expressions, off by default: it does harm where pictures contain writing. A
picture is not flipped in a direction where a word of one of its records may mean that direction or something else,
and not at all where one names a compass point or an hour of the clock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from utils.datasets.base import Flip, Sample
from utils.datasets.loading.directions import HORIZONTAL_WORDS, VERTICAL_WORDS, is_clear, swap_direction_words
from utils.datasets.loading.sampler import TrainSampler

log = logging.getLogger(__name__)

AXES = (HORIZONTAL_WORDS, VERTICAL_WORDS)  # in the order of `Flip`
Pick = tuple[int, Flip]  # a record's index, and how its picture is flipped


def flip_sample(sample: Sample, flip: Flip) -> Sample:
    """The sample with its texts adapted to the flip; pixels are flipped when they are read.

    Words that are not understood stay: `allowed_flips` tells where there are none.
    """
    question, answer = sample.question, sample.answer
    for flipped, axis in zip(flip, AXES, strict=True):
        if flipped:
            question = swap_direction_words(question, axis)
            answer = None if answer is None else swap_direction_words(answer, axis)
    return replace(sample, question=question, answer=answer, flip=flip)


def allowed_flips(sample: Sample) -> Flip:
    """In which directions question and answer are understood, so that they can be asked of the flipped picture."""
    texts = [text for text in (sample.question, sample.answer) if text]
    across, upright = (all(is_clear(text, axis) for text in texts) for axis in AXES)
    return across, upright


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
    every rank, and for all records of a picture, which is still encoded once. A picture is flipped only in directions
    that all of its records allow."""

    def __init__(self, sampler: TrainSampler) -> None:
        self.sampler = sampler
        each = [allowed_flips(sample) for sample in sampler.samples]
        self.allowed = [
            tuple(all(each[i][axis] for i in group) for axis in range(len(AXES))) for group in sampler.groups
        ]
        kept = [sum(not allowed[axis] for allowed in self.allowed) for axis in range(len(AXES))]
        if any(kept):
            unclear = next(s.question for s, allowed in zip(sampler.samples, each, strict=True) if not all(allowed))
            log.warning(
                "of %d pictures %d are not flipped left to right and %d not top to bottom, since their questions or "
                "answers have words whose direction is not sure, such as %r",
                *(len(self.allowed), *kept, unclear),
            )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[Pick]]:
        generator = self.sampler.epoch_generator()
        drawn = torch.randint(2, (len(self.sampler.groups), 2), generator=generator).bool().tolist()
        flips = {
            i: tuple(wanted and may for wanted, may in zip(flip, allowed, strict=True))
            for flip, allowed, group in zip(drawn, self.allowed, self.sampler.groups, strict=True)
            for i in group
        }
        for batch in self.sampler:
            yield [(index, flips[index]) for index in batch]
