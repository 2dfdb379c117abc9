"""The order in which records are trained on: seeded, the same on any number of processes."""

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
    What is left at an epoch's end and fills no global step is dropped.

    Args:
        samples: the training split.
        batch_size: records a process and micro-step.
        accumulation: micro-steps an optimiser step.
        seed: of the order.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self, samples: list[Sample], batch_size: int, accumulation: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.groups = image_groups(samples)
        self.records = len(samples)
        self.batch_size, self.accumulation = batch_size, accumulation
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        self.skip = 0  # batches at the start of this pass that are left out, since they were trained on before

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return self.records // (self.batch_size * self.world_size * self.accumulation)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def epoch_generator(self) -> torch.Generator:
        """What this epoch is drawn with, the same on every process."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)

    def skip_to(self, drawn: int) -> None:
        """Go on after so many batches, counted from the first pass."""
        self.epoch, self.skip = divmod(drawn, len(self))

    def next_pass(self) -> None:
        """The next pass over the data begins, with another order."""
        self.epoch, self.skip = self.epoch + 1, 0

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(len(self.groups), generator=self.epoch_generator()).tolist()
        records = [index for group in order for index in self.groups[group]]
        size = self.batch_size * self.world_size
        for start in range(self.skip * size, len(self) * size, size):
            first = start + self.rank * self.batch_size
            yield records[first : first + self.batch_size]


def infinite_batches(loader: Iterable[T], sampler: TrainSampler) -> Iterator[T]:
    """A loader's batches without end; the order changes with every pass over the data."""
    while True:
        yield from loader
        sampler.next_pass()


def split_fingerprint(samples: list[Sample]) -> str:
    """What tells one training split from another: the number of its records and a checksum of their ids."""
    return f"{len(samples)} ({zlib.crc32(repr([(one.record_id, one.question) for one in samples]).encode()):08x})"
