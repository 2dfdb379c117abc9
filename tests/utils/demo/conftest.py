"""The model that comes with the repository, behind the demo's service, and pictures to ask about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.segmenter import PixDLM
from tests.training import CHECKOUT
from utils.demo.pictures import Limits
from utils.demo.service import Service

LIMITS = Limits(upload_bytes=200_000, pixels=1_000_000, questions=4, seconds=30.0)


@pytest.fixture(scope="package")
def pixdlm() -> Iterator[PixDLM]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield PixDLM.from_pretrained(CHECKOUT / "PixDLM/mini", "cpu")
    torch.set_num_threads(threads)


@pytest.fixture
def make_service(pixdlm: PixDLM) -> Iterator[Callable[..., Service]]:
    """Makes services on it."""
    made = []

    def make(limits: Limits = LIMITS, queue: int = 8) -> Service:
        made.append(Service(pixdlm, limits, queue, 64))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture(scope="package")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yellow rectangle on green: the model marks something."""
    pixels = np.full((96, 128, 3), (60, 110, 50), np.uint8)
    pixels[:, 50:80] = 90
    pixels[30:50, 55:75] = (250, 200, 20)
    path = tmp_path_factory.mktemp("pictures") / "yellow.png"
    Image.fromarray(pixels).save(path)
    return path
