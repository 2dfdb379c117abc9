"""Batches from a DataLoader's worker in one piece.

PyTorch hands every tensor of a batch over by a file descriptor of its own, for each of which the receiving process
connects to the sender: 1 ms a tensor, in the process that runs the model. Small tensors are faster by value.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 20  # bytes from which on sharing memory is faster than copying


class Parcel:
    """A value whose small tensors travel by value, the others in shared memory.

    Args:
        value: anything that can be pickled.
    """

    def __init__(self, value: Any) -> None:
        self.large: list[Tensor] = []
        buffer = io.BytesIO()
        _Pickler(buffer, self.large).dump(value)
        self.rest = buffer.getvalue()

    def open(self) -> Any:
        """The value."""
        return _Unpickler(io.BytesIO(self.rest), self.large).load()


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, large: list[Tensor]) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self.large = large

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor) or value.nbytes < LARGE:
            return None
        self.large.append(value)
        return len(self.large) - 1

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.dtype != torch.bfloat16:  # which NumPy lacks
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, large: list[Tensor]) -> None:
        super().__init__(buffer)
        self.large = large

    def persistent_load(self, number: int) -> Tensor:
        return self.large[number]


class Packing:
    """A collate function whose batches are parcels.

    Args:
        collate: makes a batch.
    """

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Any) -> Parcel:
        """The batch of these items, to be opened by its receiver."""
        return Parcel(self.collate(items))
