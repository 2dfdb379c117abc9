"""The order of training records that come from several data sets in given shares."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from utils.datasets.base import Sample, image_groups
from utils.datasets.loading.sampler import TrainSampler
from utils.datasets.sources import Source

log = logging.getLogger(__name__)

STREAM = 1_000_000_009  # apart from the seeds of order, flips and words


class MixtureSampler(TrainSampler):
    """Batches of record indices for one process, drawn from several sources in their shares.

    An epoch has as many records as all sources together. Each source has an endless stream of its own, one shuffled
    pass after the other, and an epoch takes its share from where the epoch before stopped: a source that is drawn
    less often than once an epoch is still seen whole, and none is repeated before it was. What is drawn follows from
    seed and epoch alone, so that every process knows it, and a resumed run goes on exactly.

    Args:
        samples: of all sources, one source after the other; `Sample.index` is the position here.
        sizes: records of each source, none of them 0.
        shares: of each source, relative to each other.
        one_source_batches: whether the records of a micro-step, of all processes, are of one source; then the order
            depends on how many these are.
        batch_size, accumulation, seed, rank, world_size: as of `TrainSampler`.
    """

    def __init__(
        self,
        samples: list[Sample],
        sizes: Sequence[int],
        shares: Sequence[float],
        batch_size: int,
        accumulation: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        one_source_batches: bool = False,
    ) -> None:
        super().__init__(samples, batch_size, accumulation, seed, rank, world_size)
        ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self.sources = [
            [[first + i for i in group] for group in image_groups(samples[first:last])]
            for first, last in pairwise(ends)
        ]
        self.sizes = list(sizes)
        self.one_source_batches = one_source_batches
        whole = batch_size * world_size if one_source_batches else 1
        self.quotas = [whole * count for count in quotas(self.records // whole, shares)]

    def order(self) -> list[int]:
        """The records of this epoch."""
        generator, size = self.epoch_generator(), self.batch_size * self.world_size
        units: list[list[int]] = []  # what stays together: records of a picture, or those of a micro-step
        for source, quota in enumerate(self.quotas):
            drawn = self._drawn(source, self.epoch * quota, quota)
            if self.one_source_batches:
                flat = [index for group in drawn for index in group]
                drawn = [flat[start : start + size] for start in range(0, quota, size)]
            units += drawn
        shuffled = [units[i] for i in torch.randperm(len(units), generator=generator).tolist()]
        return [index for unit in shuffled for index in unit]

    def _drawn(self, source: int, first: int, count: int) -> list[list[int]]:
        """Records first to first + count of a source's stream, those of a picture together."""
        drawn: list[list[int]] = []
        groups, size = self.sources[source], self.sizes[source]
        for number in range(first // size, (first + count - 1) // size + 1 if count else 0):
            seed = STREAM + self.seed * 1_000_003 + source * 7_919 + number * 104_729
            order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
            position = number * size
            for group in (groups[i] for i in order):
                part = group[max(0, first - position) : max(0, first + count - position)]
                drawn += [part] if part else []
                position += len(group)
        return drawn


def quotas(records: int, shares: Sequence[float]) -> list[int]:
    """How many of so many records each source gives; the largest remainders are rounded up."""
    exact = [records * share / sum(shares) for share in shares]
    whole = [int(one) for one in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: records - sum(whole)]:
        whole[i] += 1
    return whole


def joined(parts: Sequence[list[Sample]]) -> list[Sample]:
    """The samples of several sources with the index that they have among all."""
    every = [sample for part in parts for sample in part]
    return [replace(sample, index=i) for i, sample in enumerate(every)]


def log_mixture(sources: Sequence[Source], sizes: Sequence[int], records: Sequence[int]) -> None:
    """Log size and share of each source, and how often an epoch goes through it."""
    for source, size, drawn in zip(sources, sizes, records, strict=True):
        log.info(
            "mixture: %s, %d records from %s (%s, split %s), %.1f %% of those drawn: %.2f times an epoch",
            *(source.name, size, source.root, source.dataset, source.split, 100 * drawn / sum(records), drawn / size),
        )
