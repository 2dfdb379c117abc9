"""Training prompts that leave out the words of the answer, at random.

Where every prompt of a training has the annotated words before its [SEG] groups, masks come to rest on them alone, and
the model's own words, which may be wrong, decide what it marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from utils.datasets.base import Sample
from utils.datasets.loading.sampler import TrainSampler

STREAM = 1_000_000_007  # apart from the seeds of order and flips


class WordDropoutSamples:
    """Training samples indexed by (what they are indexed by, whether their words are left out)."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, pick: tuple[Any, bool]) -> Sample:
        inner, wordless = pick
        return replace(self.samples[inner], wordless=wordless)


class WordDropoutSampler:
    """The batches of a sampler, each pick with whether the record's words are left out, drawn from seed and epoch: the
    same on every rank and in a resumed run.

    Args:
        batches: of indices, or of (index, flip).
        sampler: whose epoch it is.
        share: of records without their words, 0 to 1.
    """

    def __init__(self, batches: Iterable[list[Any]], sampler: TrainSampler, share: float) -> None:
        self.batches, self.sampler, self.share = batches, sampler, share

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[Any, bool]]]:
        generator = torch.Generator().manual_seed(STREAM + self.sampler.seed * 1_000_003 + self.sampler.epoch)
        wordless = (torch.rand(self.sampler.records, generator=generator) < self.share).tolist()
        for batch in self.batches:
            yield [(pick, wordless[pick[0] if isinstance(pick, tuple) else pick]) for pick in batch]
