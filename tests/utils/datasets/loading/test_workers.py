"""utils.datasets.loading.workers: a dead worker is told."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from utils.datasets.loading.workers import dead_worker_as_user_error
from utils.runtime.errors import UserError


class Dying(Dataset):
    """Its worker is killed, as for lack of memory."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(UserError, match="a process that decodes pictures died .*lower --workers or --batch-size"):
        with dead_worker_as_user_error():
            list(DataLoader(Dying(), num_workers=1))


def test_an_error_of_another_kind_passes_through() -> None:
    error = RuntimeError("the shapes do not match")
    with pytest.raises(RuntimeError) as caught, dead_worker_as_user_error():
        raise error
    assert caught.value is error
