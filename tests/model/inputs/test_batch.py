"""model.inputs.batch: batches moved, pinned and padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch

from model.inputs.batch import Batch, pad


@pytest.fixture
def batch(collate: Callable[..., Batch]) -> Batch:
    return collate(0, 3)


def test_moving_changes_device_of_all_and_type_of_pixels_alone(batch: Batch) -> None:
    moved = batch.to("meta", torch.bfloat16)
    assert moved.clip_pixels.dtype == moved.sam_pixels.dtype == torch.bfloat16
    for field in fields(Batch):
        value = getattr(moved, field.name)
        for tensor in value if field.name == "masks" else [value]:
            if isinstance(tensor, torch.Tensor):
                assert tensor.device.type == "meta"
                assert tensor.dtype == torch.bfloat16 or not tensor.is_floating_point()
    assert batch.clip_pixels.dtype == torch.float32 and batch.clip_pixels.device.type == "cpu"  # left as it was
    assert moved.samples == batch.samples and moved.geometries == batch.geometries


def test_pinning_reaches_every_tensor(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU nothing can be pinned, so a stand-in counts."""
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch.pin_memory()
    assert len(pinned) == 8 + len(batch.masks) + 5  # positions


def test_rows_are_padded_to_the_longest() -> None:
    padded, there = pad([[5], [1, 2, 3], []], -1)
    assert padded.tolist() == [[5, -1, -1], [1, 2, 3], [-1, -1, -1]]
    assert there.tolist() == [[True, False, False], [True] * 3, [False] * 3]
    assert (padded.dtype, there.dtype) == (torch.long, torch.bool)


def test_a_batch_without_pixels_of_its_own_moves_too(batch: Batch) -> None:
    moved = replace(batch, clip_pixels=None, sam_pixels=None).to("cpu", torch.bfloat16)
    assert moved.clip_pixels is None and moved.sam_pixels is None and len(moved) == len(batch)
