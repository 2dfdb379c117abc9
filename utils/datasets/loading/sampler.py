"""The order of training records: seeded, the same on any number of processes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from utils.datasets.base import Sample, image_groups

T = TypeVar("T")


class TrainSampler:
    """Batches of record indices for one process.

    Records that share a picture stay together, so that the picture is encoded once for all of them.
    A global batch is `batch_size * world` consecutive records; process r takes the r-th part of it.
    Records at an epoch's end that fill no optimiser step are dropped.

    Args:
        samples: the training split.
        batch_size: records per process and micro-step.
        accumulation: micro-steps per optimiser step.
        seed: of the order.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self, samples: list[Sample], batch_size: int, accumulation: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.samples, self.groups = samples, image_groups(samples)
        self.records = len(samples)
        self.batch_size, self.accumulation = batch_size, accumulation
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        self.skip = 0  # batches of this epoch to skip, since a resumed run has trained on them

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return self.records // (self.batch_size * self.world_size * self.accumulation)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def epoch_generator(self) -> torch.Generator:
        """This epoch's random generator, the same on every rank."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)

    def skip_to(self, drawn: int) -> None:
        """Resume after `drawn` batches, counted from the first epoch.

        Epochs are counted in batches of the data as they are now. Where records were removed or reworded since
        `drawn` was noted, the interrupted epoch continues in another order from the same number of batches: some of
        its records are met twice and some not at all. Later epochs are whole again, however often the run stops.
        """
        self.epoch, self.skip = divmod(drawn, len(self))

    def next_pass(self) -> None:
        """Start the next epoch, in another order."""
        self.epoch, self.skip = self.epoch + 1, 0

    def order(self) -> list[int]:
        """The records of this epoch."""
        order = torch.randperm(len(self.groups), generator=self.epoch_generator()).tolist()
        return [index for group in order for index in self.groups[group]]

    def __iter__(self) -> Iterator[list[int]]:
        records = self.order()
        size = self.batch_size * self.world_size
        for start in range(self.skip * size, len(self) * size, size):
            first = start + self.rank * self.batch_size
            yield records[first : first + self.batch_size]


def infinite_batches(loader: Iterable[T], sampler: TrainSampler) -> Iterator[T]:
    """A loader's batches without end; the order changes every epoch."""
    while True:
        yield from loader
        sampler.next_pass()


def split_fingerprint(samples: list[Sample]) -> str:
    """Identifies a training split: number of records and CRC-32 of their ids and questions."""
    return f"{len(samples)} ({zlib.crc32(repr([(one.record_id, one.question) for one in samples]).encode()):08x})"
