"""utils.datasets.loading.parcel: what is packed comes out as it was, large tensors without a copy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from utils.datasets.loading.parcel import LARGE, Packing, Parcel

KINDS = [torch.float32, torch.bfloat16, torch.int64, torch.bool]


@dataclass
class Batch:
    """Like a batch."""

    small: list[Tensor]
    large: Tensor
    names: list[str]


def batch(items: list[int]) -> Batch:
    small = [torch.tensor(items).to(kind) for kind in KINDS]
    return Batch([*small, torch.empty(0, 3)], torch.arange(LARGE // 4, dtype=torch.float32) + items[0], ["ä"])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_packed_comes_out_as_it_was(workers: int) -> None:
    loader = DataLoader(range(4), batch_size=2, collate_fn=Packing(batch), num_workers=workers)
    for parcel, items in zip(loader, ([0, 1], [2, 3]), strict=True):
        found, expected = parcel.open(), batch(items)
        assert found.names == expected.names and len(found.small) == len(expected.small)
        for one, other in zip([*found.small, found.large], [*expected.small, expected.large], strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        found.small[0] += 1  # it can be written to


def test_only_large_tensors_are_shared() -> None:
    one = batch([1])
    parcel = Parcel(one)
    assert len(parcel.large) == 1 and parcel.open().large is one.large and len(parcel.rest) < 4000
