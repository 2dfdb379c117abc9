"""utils.training.run: what is checked and drawn before the loop begins."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from utils.cli.train_options import TrainArgs
from utils.datasets.base import Sample
from utils.datasets.loading.sampler import TrainSampler
from utils.training.run import process_group_timeout, seed_everything, training_loader


def split(count: int) -> list[Sample]:
    return [Sample(Path(f"{i}.jpg"), "left?", None, (), 9, 9, "drseg", str(i), i) for i in range(count)]


def test_others_wait_longer_than_a_hanging_process_lives() -> None:
    assert process_group_timeout(TrainArgs(timeout_minutes=10)) == timedelta(minutes=15)
    assert process_group_timeout(TrainArgs(timeout_minutes=0)) > timedelta(days=1)  # never, so far as PyTorch knows it


def test_a_seed_sets_every_generator() -> None:
    def draw() -> list[Any]:
        return [random.random(), np.random.rand(), torch.rand(()).item()]

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first != draw()


@pytest.mark.parametrize("mirror", [False, True])
def test_batches_are_those_of_the_sampler_flipped_where_it_is_asked_for(mirror: bool) -> None:
    samples, args = split(40), TrainArgs(workers=0, mirror=mirror)
    sampler = TrainSampler(samples, 5, 1, seed=0)
    loader = training_loader(samples, sampler, args, lambda batch: batch, SimpleNamespace(type="cpu"))
    batches = list(loader)
    assert [[one.index for one in batch] for batch in batches] == list(sampler)
    assert any(one.flip != (False, False) for batch in batches for one in batch) == mirror
