"""utils.datasets.loading.mixture: shares, exact resumption, and the same records on any number of processes."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from utils.datasets.base import Sample
from utils.datasets.loading.mixture import MixtureSampler, joined, log_mixture, quotas
from utils.datasets.sources import Source

SIZES, SHARES = [30, 12, 6], [1.0, 2.0, 1.0]


def source(name: str, records: int, a_picture: int = 2) -> list[Sample]:
    return [
        Sample(Path(f"{name}/{i // a_picture}.jpg"), f"{i}?", None, (), 9, 9, name, str(i), i) for i in range(records)
    ]


SAMPLES = joined([source("a", 30), source("b", 12, 3), source("c", 6)])


def sampler(batch_size: int = 4, seed: int = 0, rank: int = 0, world: int = 1, apart: bool = False) -> MixtureSampler:
    return MixtureSampler(SAMPLES, SIZES, SHARES, batch_size, 1, seed, rank, world, apart)


def batches(one: MixtureSampler, epochs: int = 1) -> list[list[int]]:
    found = []
    for _ in range(epochs):
        found += list(one)
        one.next_pass()
    return found


def flat(lists: list[list[int]]) -> list[int]:
    return [index for one in lists for index in one]


def names(indices: list[int]) -> list[str]:
    return [SAMPLES[index].dataset for index in indices]


def test_records_have_their_own_index_among_all() -> None:
    assert [sample.index for sample in SAMPLES] == list(range(48))
    assert names([0, 29, 30, 41, 42, 47]) == ["a", "a", "b", "b", "c", "c"]


def test_shares_are_kept_to_the_record() -> None:
    assert quotas(48, SHARES) == [12, 24, 12] and quotas(10, [1, 1, 1]) == [4, 3, 3] and quotas(3, [1, 0.01]) == [3, 0]
    assert Counter(names(flat(list(sampler())))) == {"a": 12, "b": 24, "c": 12}


def test_a_source_is_seen_whole_before_it_is_repeated_across_epochs_too() -> None:
    drawn = flat(batches(sampler(), epochs=5))
    seen = Counter(drawn)
    assert {seen[i] for i in range(30)} == {2}  # 5 x 12 = two passes of 30
    assert {seen[i] for i in range(30, 42)} == {10} and {seen[i] for i in range(42, 48)} == {10}
    assert sorted(flat(batches(sampler(), epochs=5))[:48]) != sorted(range(48))


def test_records_of_a_picture_follow_each_other() -> None:
    order = flat(list(sampler(batch_size=48)))
    for name, group in (("a", 2), ("c", 2)):
        of_source = [i for i in order if SAMPLES[i].dataset == name]
        assert all(one // group == other // group for one, other in zip(of_source[::2], of_source[1::2], strict=True))


def test_the_order_follows_seed_and_epoch_alone() -> None:
    assert batches(sampler(), 2) == batches(sampler(), 2)
    assert len({str(batches(sampler(seed=seed))) for seed in range(4)}) == 4
    first, second = list(sampler()), batches(sampler(), 2)[12:]
    assert first != second


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("world", [2, 4])
def test_global_batches_are_the_same_on_one_process_and_on_several(world: int, apart: bool) -> None:
    alone = batches(sampler(apart=apart), 2)
    shares = [batches(sampler(4 // world, rank=rank, world=world, apart=apart), 2) for rank in range(world)]
    assert [flat(list(parts)) for parts in zip(*shares, strict=True)] == alone


@pytest.mark.parametrize("drawn", [1, 11, 12, 13, 30])
@pytest.mark.parametrize("apart", [False, True])
def test_a_resumed_mixture_goes_on_exactly(drawn: int, apart: bool) -> None:
    whole, resumed = batches(sampler(apart=apart), 4), sampler(apart=apart)
    resumed.skip_to(drawn)
    rest = list(resumed)
    resumed.next_pass()
    assert (rest + list(resumed)) == whole[drawn : (drawn // 12 + 2) * 12]


def test_batches_of_one_source_alone() -> None:
    found = batches(sampler(apart=True), 3)
    assert all(len(set(names(batch))) == 1 and len(batch) == 4 for batch in found)
    assert any(len(set(names(batch))) > 1 for batch in batches(sampler(), 3))
    assert Counter(names(flat(found))) == {"a": 36, "b": 72, "c": 36}
    order = [names(batch)[0] for batch in found]
    assert order != sorted(order)  # the sources take turns at random


def test_a_source_smaller_than_its_share_of_one_epoch_and_one_of_a_record() -> None:
    samples = joined([source("a", 20), source("b", 1)])
    drawn = list(MixtureSampler(samples, [20, 1], [1, 1], 21, 1, seed=0))[0]
    assert Counter(samples[i].dataset for i in drawn) == {"a": 11, "b": 10}


def test_sizes_and_shares_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    sources = [Source("drseg", "drseg", Path("data/DRSeg"), "train"), Source("roofs", "drseg", Path("r"), "val", 3.0)]
    with caplog.at_level(logging.INFO):
        log_mixture([replace(one) for one in sources], [300, 50], [100, 200])
    assert "drseg, 300 records from data/DRSeg (drseg, split train), 33.3 % of those drawn: 0.33 times" in caplog.text
    assert "roofs, 50 records from r (drseg, split val), 66.7 % of those drawn: 4.00 times an epoch" in caplog.text
