"""utils.datasets.loading.sampler: the order of training records, on one process and on several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from utils.datasets.base import Sample, image_groups
from utils.datasets.loading.sampler import TrainSampler, infinite_batches, split_fingerprint


def split(*questions: int) -> list[Sample]:
    """Samples of pictures that have so many questions each, the pictures' records taking turns."""
    turns = [(q, p) for p, count in enumerate(questions) for q in range(count)]
    return [
        Sample(Path(f"{p}.jpg"), f"{p} {q}?", None, (), 10, 10, "drseg", str(p), i)
        for i, (q, p) in enumerate(sorted(turns))
    ]


SAMPLES = split(1, 3, 2, 1, 1, 4, 2, 2)  # 16 records


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def test_an_epoch_has_every_record_once() -> None:
    sampler = TrainSampler(SAMPLES, batch_size=4, accumulation=2, seed=0)
    for sampler.epoch in range(3):
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [4] * 4
        assert sorted(flat(batches)) == list(range(16))


def test_records_of_a_picture_follow_each_other() -> None:
    assert any(group != list(range(group[0], group[0] + len(group))) for group in image_groups(SAMPLES))
    order = flat(list(TrainSampler(SAMPLES, batch_size=16, accumulation=1, seed=0)))
    for group in image_groups(SAMPLES):
        first = order.index(group[0])
        assert order[first : first + len(group)] == group


def test_the_order_follows_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = TrainSampler(SAMPLES, batch_size=2, accumulation=1, seed=seed)
        sampler.epoch = epoch
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("world", [2, 4])
def test_global_batches_are_the_same_on_one_process_and_on_several(world: int) -> None:
    alone = list(TrainSampler(SAMPLES, batch_size=4, accumulation=2, seed=5))
    shares = [
        list(TrainSampler(SAMPLES, 4 // world, accumulation=2, seed=5, rank=rank, world_size=world))
        for rank in range(world)
    ]
    assert [flat(list(parts)) for parts in zip(*shares, strict=True)] == alone


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "world", "steps"), [(4, 2, 1, 2), (3, 1, 1, 5), (3, 2, 2, 1), (5, 2, 2, 0)]
)
def test_what_fills_no_step_is_left_out(batch_size: int, accumulation: int, world: int, steps: int) -> None:
    for rank in range(world):
        sampler = TrainSampler(SAMPLES, batch_size, accumulation, seed=0, rank=rank, world_size=world)
        assert sampler.steps == steps
        batches = list(sampler)
        assert len(batches) == len(sampler) == steps * accumulation
        assert all(len(batch) == batch_size for batch in batches)


def test_batches_go_on_with_another_order_in_every_pass() -> None:
    sampler = TrainSampler(SAMPLES, batch_size=4, accumulation=1, seed=0)
    passes = [list(sampler)]
    sampler.epoch = 1
    passes.append(list(sampler))
    sampler.epoch = 0
    batches = infinite_batches(sampler, sampler)
    assert [next(batches) for _ in range(8)] == passes[0] + passes[1]


@pytest.mark.parametrize("drawn", [0, 3, 4, 5, 9])
def test_a_run_that_is_taken_up_goes_on_after_the_batches_that_were_drawn(drawn: int) -> None:
    whole = TrainSampler(SAMPLES, batch_size=4, accumulation=1, seed=0)
    batches = infinite_batches(whole, whole)
    expected = [next(batches) for _ in range(12)][drawn:]
    resumed = TrainSampler(SAMPLES, batch_size=4, accumulation=1, seed=0)
    resumed.skip_to(drawn)
    rest = infinite_batches(resumed, resumed)
    assert [next(rest) for _ in expected] == expected


def test_a_split_is_known_by_its_records_and_questions() -> None:
    own = split_fingerprint(SAMPLES)
    assert own == split_fingerprint(list(SAMPLES)) and own.startswith("16 (")
    assert own != split_fingerprint(SAMPLES[::-1])
    assert own != split_fingerprint([replace(SAMPLES[0], question="Another?"), *SAMPLES[1:]])
